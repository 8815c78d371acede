"""What a recipe may say: every setting, its type, its default and its unit, as frozen pydantic models.

`harness.config.load` reads YAML into `Recipe`; `harness.matrix.expand` cuts it into stages; each stage gets back one of the smaller
models here. Imports no torch, so that `plan`, `ls` and `--help` stay fast.
"""

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from harness.config.attack import EvaluationAttack
from harness.config.base import JSON, Count, Fraction, NotNegative, Settings
from harness.config.methods import settings_model
from harness.config.model import ModelSettings
from harness.config.train import PretrainSettings
from harness.config.transfer import MethodSettings
from writers import names
from writers.beton.encoding import Encoding
from writers.subset.spec import SubsetSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Names = str | Annotated[tuple[str, ...], Field(min_length=1)]


class DataSettings(Settings):
    """A dataset as a recipe names it: a file of `writers/datasets/`, or any tree of class folders."""

    dataset: str = (
        "folder"  # a name in writers/datasets; `folder`: any tree (or tar) of class folders
    )
    path: str | None = (
        None  # a folder or archive; relative to $HARNESS_RAW. None: $HARNESS_RAW/<dataset>
    )
    name: str | None = (
        None  # what reports call it; default: dataset, or for `folder` the path's stem
    )
    val: Fraction = 0.1  # seeded, stratified share of train that becomes val, where no val is given
    test: Fraction = 0.2  # likewise for test, where no test is given (targets only)
    split_seed: int = 0
    protocol: str | None = (
        None  # whose splits: a name in the dataset's SPEC.protocols; None: the dataset's own
    )
    accept_counts: bool = (
        False  # write it although its counts differ from those published; the manifest says how
    )
    metric: Literal["top1", "mean_per_class", "map11"] | None = (
        None  # None: the dataset's own metric (`folder`: top1)
    )
    encoding: Encoding | None = None  # None: the recipe's

    @field_validator("dataset")
    @classmethod
    def _as_its_file(cls, dataset: str) -> str:
        return names.normalise(dataset)  # clevr-count is clevr_count

    def resolved_for(self, splits: Collection[str]) -> JSON:
        """Dump every setting that has an effect on writing these splits."""
        settings = self.resolved()
        unused = {"encoding", "metric"} | ({"test"} if "test" not in splits else set())
        return {name: settings[name] for name in settings if name not in unused}

    @property
    def label(self) -> str:
        """Name of the dataset in names of stages and in reports."""
        if self.name:
            return self.name
        if self.dataset == "folder" and self.path:
            return self.path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        return self.dataset


class RankingSettings(Settings):
    """How the recipe's own class ranking is made, for subsets that say `by: reference`."""

    split: Literal["val", "train", "held_out"] = (
        "val"  # whose images score the classes; held_out: a part of train that the
    )
    #                                             reference model is not trained on, so that val stays unused for the results;
    #                                             train: all of it, fold by fold, each by a model that is trained on the others
    per_class: Count | None = (
        None  # `held_out`: images of each class; None: 50, as ImageNet's val has
    )
    folds: Annotated[int, Field(ge=2)] | None = None  # `train`: so many; None: 5
    seed: int = 1000  # of the reference model: none of `seeds`, so that ranking and result differ
    epochs: Count | None = None  # None: as pretrain

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if self.per_class is not None and self.split != "held_out":
            raise ValueError("per_class has an effect with split: held_out only")
        if self.folds is not None and self.split != "train":
            raise ValueError("folds has an effect with split: train only")
        return self

    @property
    def held_out(self) -> list[dict[str, int]]:
        """What of train each reference model does not see: so many images of each class, or a fold, drawn by this seed."""
        if self.split == "held_out":
            return [{"per_class": self.per_class or 50, "seed": self.seed}]
        folds = (self.folds or 5) if self.split == "train" else 0
        return [{"fold": fold, "folds": folds, "seed": self.seed} for fold in range(folds)]


class EvaluateSettings(Settings):
    """Every pretrained model on the classes that all subsets share, clean and under PGD at its own eps."""

    attack: EvaluationAttack = EvaluationAttack()
    batch_size: Count = 256
    eps_of_clean: NotNegative | None = (
        None  # also attack the clean model, at this eps; None: it is not attacked
    )
    # subsets whose shared classes all models are compared on; None: all but those with coarser labels
    common: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    def resolved_for(self, eps: float) -> JSON:
        """Dump every setting that has an effect on the evaluation of a model that was trained at eps.

        `common` is left out: the stage has the subsets' roles in its place.
        """
        settings = self.resolved()
        del settings["common"]
        if eps > 0:
            del settings["eps_of_clean"]
        elif not self.eps_of_clean:
            del settings["attack"], settings["eps_of_clean"]
        return settings


class FeatureSettings(Settings):
    """How a frozen model is shown a target's images, for scores and for methods that work on its features."""

    resolution: Count | None = (
        None  # pixels a side; None: of evaluation in `pretrain`, or the model's own
    )
    eval_crop: Annotated[float, Field(gt=0, le=1)] | None = (
        None  # centre crop: share of the shorter side; None: likewise
    )
    batch_size: Count = 128
    precision: Literal["auto", "float32", "bf16", "fp16"] = (
        "float32"  # of every features stage, adopted models too; bf16 keeps 3 digits: neighbours may change
    )


class ShortlistSettings(Settings):
    """The best of the recipe's `models`, and the methods that are for those only."""

    by: str  # a score of the recipe's, or a variant of one: knn, knn_k5, hscore_shrunk
    best: Count  # how many, by their mean rank over all targets
    methods: Annotated[tuple[str, ...], Field(min_length=1)]


class PointSettings(Settings):
    """Points of the matrix, by some of its axes: a value, or a list of values. What is not named: all of the axis."""

    subset: Names | None = None
    arch: Names | None = None
    variant: Names | None = None
    eps: NotNegative | Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    seed: int | Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    model: Names | None = None
    target: Names | None = None
    method: Names | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.axes():
            raise ValueError("say which points, such as {subset: in900, eps: 3}")
        if self.model is not None and self.axes().keys() & {
            "subset",
            "arch",
            "variant",
            "eps",
            "seed",
        }:
            raise ValueError(
                "a model that exists already has none of the axes subset, arch, variant, eps and seed"
            )
        return self

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Axis -> the values that are named."""
        named = ((axis, getattr(self, axis)) for axis in type(self).model_fields)
        return {
            axis: value if isinstance(value, tuple) else (value,)
            for axis, value in named
            if value is not None
        }


class Recipe(Settings):
    """The whole question: which sources, which subsets, which robustness, which targets, which methods."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    question: str = ""
    scale: str | None = None  # one of the recipe's `scales`, which then lie over the rest of it
    source: DataSettings | None = None  # None: nothing is pretrained; `models` are looked at
    encoding: Encoding = Encoding()
    ranking: RankingSettings | None = None
    subsets: tuple[SubsetSpec, ...] = ()
    archs: Annotated[tuple[str, ...], Field(min_length=1)] = ("resnet18",)
    eps: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0,)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    pretrain: PretrainSettings = PretrainSettings()
    variants: dict[Name, PretrainSettings] = Field(
        default_factory=dict
    )  # an axis; recipes say what lies over `pretrain`
    evaluate: EvaluateSettings = EvaluateSettings()
    models: tuple[ModelSettings, ...] = ()  # that exist already
    weights_dir: str = "weights"  # where files of weights lie; relative to $HARNESS_RAW
    targets: tuple[DataSettings, ...] = ()
    # label -> settings, of the model that the method declares (`harness.config.methods`)
    methods: dict[str, SerializeAsAny[MethodSettings]] = Field(default_factory=dict)
    scores: (
        tuple[str, ...] | Literal["all"]
    ) = ()  # names in harness/scores: of every model for every target
    features: FeatureSettings = FeatureSettings()
    shortlist: ShortlistSettings | None = None
    exclude: tuple[
        PointSettings, ...
    ] = ()  # points of the axes to leave out (harness/config/axes.py)
    include: tuple[PointSettings, ...] = ()  # points outside their product

    @field_validator("methods", mode="wrap")
    @classmethod
    def _validate_methods(
        cls, methods: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> dict[str, MethodSettings]:
        """Validate each entry with the settings model of its method.

        Raises:
            UserError: there is no method of that name.
        """
        if not isinstance(methods, Mapping):
            return dict(handler(methods))
        entries = {str(label): _with_name(str(label), entry) for label, entry in methods.items()}
        models = {
            label: settings_model(entry["method"]) if isinstance(entry, dict) else MethodSettings
            for label, entry in entries.items()
        }
        adapter: TypeAdapter[dict[str, MethodSettings]] = TypeAdapter(_typed_dict(models))
        if info.mode == "json":
            return dict(adapter.validate_json(json.dumps(entries), strict=True))
        return dict(adapter.validate_python(entries))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis in ("archs", "eps", "seeds"):
            values = getattr(self, axis)
            if len(set(values)) != len(values):
                raise ValueError(f"{axis} names a value twice: {list(values)}")
        for axis, labels in (
            ("subsets", [s.name for s in self.subsets]),
            ("targets", [t.label for t in self.targets]),
            ("models", [model.name for model in self.models]),
        ):
            if len(set(labels)) != len(labels):
                raise ValueError(
                    f"two of the {axis} have the same name: {labels}; give each its own `name:`"
                )
        if bool(self.targets) != bool(self.methods or self.scores):
            raise ValueError(
                "targets and methods go together, or targets and scores: one without the other has no effect"
            )
        seen: dict[str, str] = {}
        for variant, settings in self.variants.items():
            if (same := seen.setdefault(settings.model_dump_json(), variant)) != variant:
                raise ValueError(
                    f"the variants {same} and {variant} say the same; drop one of them"
                )
        self._check_sources()
        if self.shortlist is not None:
            self._check_shortlist(self.shortlist)
        for name in self.evaluate.common or ():
            if name not in [subset.name for subset in self.subsets]:
                raise ValueError(f"evaluate.common names {name}, which is none of the subsets")
        needs_reference = any(subset.needs_ranking == "reference" for subset in self.subsets)
        if needs_reference != (self.ranking is not None):
            raise ValueError(
                "`ranking:` goes with a subset that says `by: reference`, and only with one"
            )
        if (
            self.ranking
            and self.ranking.epochs
            and self.pretrain.progressive
            and self.pretrain.progressive.ramp[1] >= self.ranking.epochs
        ):
            raise ValueError(
                f"ranking.epochs is {self.ranking.epochs}: the reference model's training would end before "
                "pretrain.progressive.ramp does"
            )
        return self

    def _check_shortlist(self, shortlist: ShortlistSettings) -> None:
        if not self.models:
            raise ValueError("a shortlist is one of `models`, and there are none")
        if unknown := [label for label in shortlist.methods if label not in self.methods]:
            raise ValueError(
                f"shortlist.methods names {', '.join(unknown)}; the methods are {', '.join(self.methods)}"
            )
        asked = names.names("harness.transfer.scores") if self.scores == "all" else self.scores
        if not any(
            shortlist.by == score or shortlist.by.startswith(f"{score}_") for score in asked
        ):
            raise ValueError(
                f"shortlist.by is {shortlist.by}, and the scores are {', '.join(asked) or 'none'}"
            )

    def _check_sources(self) -> None:
        """There are models to look at, and no settings of pretraining where nothing is pretrained."""
        if (self.source is None) == bool(self.subsets):
            raise ValueError(
                "source and subsets go together: say what is pretrained on what, or name `models`"
            )
        if self.source is None and not self.models:
            raise ValueError(
                "there is no model: say source and subsets for models to pretrain, or `models` that exist"
            )
        of_pretraining = {"ranking", "archs", "eps", "pretrain", "variants", "evaluate"}
        if self.source is None and (unused := sorted(of_pretraining & self.model_fields_set)):
            raise ValueError(
                f"{', '.join(unused)} has no effect: without a source nothing is pretrained"
            )
        if self.models and not self.targets:
            raise ValueError("models need targets: nothing else is done with them")
        if "weights_dir" in self.model_fields_set and not self.models:
            raise ValueError("weights_dir goes with models")


def _typed_dict(models: Mapping[str, type[MethodSettings]]) -> Any:
    """Make a type of dictionaries with these keys, whose values are instances of these models."""
    make: Any = TypedDict
    return make("Methods", dict(models))


def _with_name(label: str, entry: Any) -> Any:
    """The settings of a method as a mapping, with the method's name in it."""
    if isinstance(entry, MethodSettings):
        entry = entry.model_dump(exclude_unset=True)
    if not isinstance(entry, Mapping):
        return entry
    return {**entry, "method": names.normalise(str(entry.get("method") or label))}
