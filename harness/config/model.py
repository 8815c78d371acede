"""What a recipe may say of models that exist already, with their weights. Imports no torch."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from harness.config.base import JSON, Count, Fraction, NotNegative, Settings
from harness.config.zoo_names import is_pattern

Constants = tuple[float, float, float]  # red, green, blue, of pixels in [0, 1]


class ModelSettings(Settings):
    """One model: of torchvision or timm with its published weights, of harness/models with packaged ones, or a checkpoint's.

    `name` may be a pattern of those of torchvision or timm that have published weights: `timm/resnet*`. A text alone is a name.
    """

    name: str  # what reports call it; without `checkpoint` also which it is
    checkpoint: str | None = None  # a file, relative to the recipe's weights_dir
    arch: str | None = None  # of the checkpoint; None: name
    classes: str | None = (
        "in1000"  # of the checkpoint's head: a subset with a class list; None: it has no head of use
    )
    eps: NotNegative = 0.0  # of its adversarial training
    average: bool = False  # the exponential average of its weights, where the file has one
    by_order: bool = False  # match tensors by their order and shapes
    mean: Constants | None = None  # None: what the file, else the library says
    std: Constants | None = None
    resolution: Count | None = None  # pixels a side, in place of the methods' and of `features`
    eval_crop: Annotated[float, Field(gt=0, le=1)] | None = (
        None  # likewise for `features`; None: the model's own
    )
    imagenet_top1: Fraction | None = (
        None  # published accuracy; None: what torchvision says of its weights
    )
    limit: Count | None = None  # of a pattern: only the first so many, in the order of their names

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    def without_effect(self) -> dict[str, str]:
        """Settings of checkpoints, if the weights are published ones."""
        if self.checkpoint is not None:
            return {}
        names = ("arch", "classes", "eps", "average", "by_order", "mean", "std")
        return dict.fromkeys(names, "goes with a checkpoint; published weights come with theirs")

    def resolved_weights(self) -> JSON:
        """Dump the settings that decide the weights, not how images are shown to the model."""
        settings = self.resolved()
        shown = ("resolution", "eval_crop", "limit")
        return {name: settings[name] for name in settings if name not in shown}

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if self.limit is not None and not is_pattern(self.name):
            raise ValueError("limit goes with a pattern such as timm/resnet*")
        if is_pattern(self.name) and (self.checkpoint or self.imagenet_top1 is not None):
            raise ValueError("a pattern names many models: checkpoint and imagenet_top1 are of one")
        return self
