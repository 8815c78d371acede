"""Settings of pretrained models. Imports no torch."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from harness.config.base import JSON, Count, Fraction, NotNegative, OneLine, Settings
from harness.config.training_kind import TrainingKind
from harness.config.zoo_names import is_pattern
from loaders.interpolation import Interpolation
from writers.regular_file import InputPath, fault_of

LIST_EXTENSIONS = (".txt", ".yaml", ".yml")  # endings of `classes` that make it a file, not a name
Constants = tuple[float, float, float]  # one value each for red, green and blue pixels in [0, 1]


class ModelSettings(Settings):
    """One pretrained model: of torchvision or timm, packaged with this project, or a checkpoint.

    `name` may be a pattern of torchvision's or timm's models with published weights, such as
    `timm/resnet*`. A string stands for a model of that name. `torchvision/resnet50@IMAGENET1K_V1`
    has the weights of that name instead of the default ones.

    Attributes:
        name: name in reports; without `checkpoint`, also the name of the model.
        checkpoint: file, relative to the recipe's weights_dir.
        arch: architecture of the checkpoint. None means `name`.
        classes: classes of the checkpoint's head: a subset with a class list. None means the head
            is not used.
        eps: radius of the model's adversarial training, in [0, 1] pixel units; 0 means clean.
        average: load the exponential average of the weights, if the file has one.
        by_order: match tensors by order and shape instead of name.
        part: selects one copy of the network if the file has several: a part of the names of its
            tensors, such as `encoder_k`. None means the copy that the method's authors evaluate.
        training: kind of training, by which the report groups models. None means it is recognized
            by the layout of the file or the name of the weights.
        mean: mean of pixels in [0, 1]. None means the mean in the file, or else the library's.
        std: standard deviation of pixels in [0, 1]. None as for `mean`.
        resolution: pixels per side; replaces `resolution` of the methods and of `features`, unless
            it is None.
        eval_crop: center crop; replaces `eval_crop` of `features`, unless it is None.
        interpolation: filter of the resize. None means the filter of the library's published
            weights.
        imagenet_top1: published accuracy, a fraction. None means the one that torchvision or timm
            states.
        limit: use only the first models that match the pattern, sorted by name.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"part"})

    name: OneLine
    checkpoint: Annotated[str, InputPath()] | None = None
    arch: str | None = None
    classes: Annotated[str, InputPath(is_checked_on_load=True)] | None = "in1000"
    eps: NotNegative = 0.0
    average: bool = False
    by_order: bool = False
    part: OneLine | None = None
    training: TrainingKind | None = None
    mean: Constants | None = None
    std: Constants | None = None
    resolution: Count | None = None
    eval_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    interpolation: Interpolation | None = None
    imagenet_top1: Fraction | None = None
    limit: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, settings: Any) -> Any:
        return {"name": settings} if isinstance(settings, str) else settings

    @field_validator("classes")
    @classmethod
    def _check_class_list(cls, classes: str | None) -> str | None:
        if (
            classes is not None
            and classes.endswith(LIST_EXTENSIONS)
            and (fault := fault_of(classes))
        ):
            raise ValueError(fault)
        return classes

    def without_effect(self) -> dict[str, str]:
        """Settings of checkpoints have no effect on published weights."""
        if self.checkpoint is not None:
            return {}
        names = ("arch", "classes", "eps", "average", "by_order", "part", "mean", "std")
        return dict.fromkeys(
            names, "has an effect on a checkpoint only; published weights define their own"
        )

    def resolved_weights(self) -> JSON:
        """Dump the settings that determine the weights, without resolution and crop of images."""
        settings = self.resolved()
        others = ("resolution", "eval_crop", "limit", "training")
        return {name: settings[name] for name in settings if name not in others}

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if self.limit is not None and not is_pattern(self.name):
            raise ValueError("limit has an effect on a pattern only, such as timm/resnet*")
        if is_pattern(self.name) and (self.checkpoint or self.imagenet_top1 is not None):
            raise ValueError(
                "a pattern matches several models, but checkpoint and imagenet_top1 describe one"
            )
        return self
