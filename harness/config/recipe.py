"""Settings of a recipe as frozen pydantic models, with types, defaults and units.

`harness.config.load` reads YAML into `Recipe`; `harness.matrix.expand` expands it into stages. Each
stage reads one of the smaller models back from its config. Imports no torch, so that `plan`, `ls`
and `--help` stay fast.
"""

import json
from collections.abc import Mapping
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
from harness.config.base import (
    JSON,
    MAX_LABEL,
    Count,
    NotNegative,
    OneLine,
    Seed,
    Settings,
    check_label,
    repeated,
)
from harness.config.data import DataSettings
from harness.config.methods import settings_model
from harness.config.model import ModelSettings
from harness.config.selection import SelectionSettings
from harness.config.train import PretrainSettings
from harness.config.transfer import MethodSettings, completed
from loaders.interpolation import Interpolation
from writers import names
from writers.beton.encoding import Encoding
from writers.regular_file import InputPath
from writers.subset.spec import SubsetSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=MAX_LABEL)]
DEFAULT_FOLDS = 5  # number of folds of train, for a ranking with `split: train`
Names = str | Annotated[tuple[str, ...], Field(min_length=1)]


class RankingSettings(Settings):
    """How the recipe trains a reference model to rank classes, for subsets with `by: reference`.

    Attributes:
        split: images that score the classes. held_out: a part of train that the reference model
            does not train on, so that val is used only for results. train: all of train, fold by
            fold: each fold is scored by a model that trained on the other folds.
        per_class: for `held_out`: images of each class. None means 50, as in ImageNet's val.
        folds: for `train`: number of folds. None means 5.
        seed: seed of the reference model. It must not be in `seeds`, so that the reference model
            is none of the models that are compared.
        epochs: epochs of the reference model. None means `epochs` of `pretrain`.
    """

    split: Literal["val", "train", "held_out"] = "val"
    per_class: Count | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    seed: Seed = 1000
    epochs: Count | None = None

    def without_effect(self) -> dict[str, str]:
        """Settings that only another `split` uses."""
        reasons = {}
        if self.split != "held_out":
            reasons["per_class"] = "has an effect with split: held_out only"
        if self.split != "train":
            reasons["folds"] = "has an effect with split: train only"
        return reasons

    @property
    def held_out(self) -> list[dict[str, int]]:
        """List, for each reference model, the part of train that it does not train on.

        The part is a number of images of each class, or a fold, drawn with the seed.
        """
        if self.split == "held_out":
            return [{"per_class": self.per_class or 50, "seed": self.seed}]
        folds = (self.folds or DEFAULT_FOLDS) if self.split == "train" else 0
        return [{"fold": fold, "folds": folds, "seed": self.seed} for fold in range(folds)]


class EvaluateSettings(Settings):
    """Evaluation of every pretrained model, clean and under PGD at its own eps.

    Attributes:
        attack: attack of the evaluation.
        batch_size: images per batch.
        eps_of_clean: attack clean models too, at this eps. None means they are not attacked.
        attacked_logits: accuracies are measured over all classes and over those that subsets share.
            scored: each has its own attack, which raises the loss over the logits that it compares.
            all: one attack on all logits serves for each; accuracies that leave out the logits of
            other classes then look more robust than they are.
        compile: torch.compile and CUDA graphs for the attack. None means `compile` of `pretrain`.
        common: all models are compared on the classes that these subsets share. None means all
            subsets except those with coarser labels.
    """

    attack: EvaluationAttack = EvaluationAttack()
    attacked_logits: Literal["scored", "all"] = "scored"
    batch_size: Count = 256
    compile: Literal["off", "auto", "on"] | None = None
    eps_of_clean: NotNegative | None = None
    common: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    def resolved_for(self, eps: float, compile_in_training: str) -> JSON:
        """Dump every setting that has an effect on evaluating a model that was trained at eps.

        Leaves out `common`: the stage's config lists the needed stages (by role) of these subsets.

        Args:
            eps: Radius of the attack in training.
            compile_in_training: `compile` of `pretrain`.
        """
        settings = self.resolved() | {"compile": self.compile or compile_in_training}
        del settings["common"]
        if eps > 0:
            del settings["eps_of_clean"]
        elif not self.eps_of_clean:
            for name in ("attack", "eps_of_clean", "attacked_logits", "compile"):
                del settings[name]
        return settings


class FeatureSettings(Settings):
    """How a target's images are shown to a frozen model, for scores and for methods on features.

    Attributes:
        resolution: pixels per side. None means the resolution of evaluation in `pretrain`, or for
            a pretrained model its own resolution.
        eval_crop: center crop, as a fraction of the shorter side. None as for `resolution`.
        interpolation: filter of the resize. auto: the model's own.
        batch_size: images per batch.
        precision: precision of every features stage. bf16 keeps 3 digits, so nearest neighbors may
            change.
    """

    resolution: Count | None = None
    eval_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    interpolation: Interpolation | Literal["auto"] = "auto"
    batch_size: Count = 128
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"


class ShortlistSettings(Settings):
    """Choose the best of the recipe's `models`, and run the listed `methods` for these only.

    Attributes:
        by: a score of the recipe, or a variant of a score: knn, knn_k5, hscore_shrunk.
        best: number of models, by mean rank over all targets.
        methods: labels of the methods that run for these models only.
    """

    by: str
    best: Count
    methods: Annotated[tuple[str, ...], Field(min_length=1)]


class PointSettings(Settings):
    """Points (combinations of axis values), selected by one or more values of some axes.

    If an axis is not named, all of its values match. `*` in a name stands for any text.

    Attributes:
        selection: for subsets that were selected for certain targets: seen: transfers to these
            targets. unseen: transfers to other targets.
    """

    subset: Names | None = None
    arch: Names | None = None
    variant: Names | None = None
    eps: NotNegative | Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    seed: Seed | Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    model: Names | None = None
    target: Names | None = None
    method: Names | None = None
    selection: Literal["seen", "unseen"] | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.axes():
            raise ValueError("name the points, such as {subset: in900, eps: 3}")
        if self.model is not None and self.axes().keys() & {
            "subset",
            "arch",
            "variant",
            "eps",
            "seed",
        }:
            raise ValueError(
                "a pretrained model has none of the axes subset, arch, variant, eps and seed"
            )
        return self

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Map each named axis to its values."""
        named = ((axis, getattr(self, axis)) for axis in type(self).model_fields)
        return {
            axis: value if isinstance(value, tuple) else (value,)
            for axis, value in named
            if value is not None
        }


class Recipe(Settings):
    """A study: sources, subsets, robustness, targets and methods.

    Attributes:
        name: name of the recipe, of its report and of its folder.
        question: question that the study answers, shown at the top of the report.
        absent: parts of the published study that the recipe does not have; reports list them.
        scale: name of the entry of `scales` that overrides other settings of the recipe.
        source: dataset for pretraining. None means that nothing is pretrained; the recipe uses
            `models` only. If there are no `subsets`, nothing is pretrained either, and the source's
            images only serve to measure `models`.
        encoding: how images are stored in `.beton` files.
        ranking: reference model that ranks classes, for subsets with `by: reference`.
        selection: models that score classes and images for subsets.
        subsets: an axis: subsets of the source to pretrain on.
        in_place: subsets are read from the `.beton` files that have all classes of the source.
            False: each subset is written to files of its own, which take more disk space.
        archs: an axis: architectures to pretrain.
        eps: an axis: radius of the attack in pretraining, in [0, 1] pixel units; 0 is clean.
        seeds: an axis: seed of initial weights, order of images and crops.
        pretrain: how the recipe pretrains.
        variants: an axis of training: label -> settings that override `pretrain`.
        evaluate: how the models that the recipe trains are evaluated on the source.
        models: pretrained models to transfer, in addition to those that the recipe trains.
        weights_dir: folder of weights, relative to $HARNESS_RAW.
        source_accuracy: accuracy of `models` on the source. published: the accuracy that
            `imagenet_top1` or the library states. measured: each model is also evaluated on the
            source's val images, clean, with its own normalization, resolution and crop (for a
            checkpoint: those of its entry), and with `features.batch_size` and
            `features.precision`. Models without a classifier for the source's classes are not
            measured.
        targets: an axis: downstream datasets.
        methods: an axis: ways to transfer, label -> settings. Each method declares its own settings
            (`harness.config.methods`).
        scores: names in `harness/transfer/scores`, computed for every model and target.
        features: how images are shown to a frozen model.
        shortlist: selects the best of `models` by a score. None means all are transferred.
        exclude: points (combinations of axis values) to leave out (`harness/config/axes.py`).
        include: points to add outside the product of the axes.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=MAX_LABEL)]
    question: str = ""
    absent: tuple[OneLine, ...] = ()
    scale: str | None = None
    source: DataSettings | None = None
    encoding: Encoding = Encoding()
    ranking: RankingSettings | None = None
    selection: SelectionSettings = SelectionSettings()
    subsets: tuple[SubsetSpec, ...] = ()
    in_place: bool = False
    archs: Annotated[tuple[str, ...], Field(min_length=1)] = ("resnet18",)
    eps: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0,)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    pretrain: PretrainSettings = PretrainSettings()
    variants: dict[Name, PretrainSettings] = Field(default_factory=dict)
    evaluate: EvaluateSettings = EvaluateSettings()
    models: tuple[ModelSettings, ...] = ()
    weights_dir: Annotated[str, InputPath(file=False, folder=True)] = "weights"
    source_accuracy: Literal["published", "measured"] = "published"
    targets: tuple[DataSettings, ...] = ()
    methods: dict[str, SerializeAsAny[MethodSettings]] = Field(default_factory=dict)
    scores: tuple[str, ...] | Literal["all"] = ()
    features: FeatureSettings = FeatureSettings()
    shortlist: ShortlistSettings | None = None
    exclude: tuple[PointSettings, ...] = ()
    include: tuple[PointSettings, ...] = ()

    @property
    def measures_models(self) -> bool:
        """True if `models` are evaluated on the source's val images."""
        return self.source_accuracy == "measured"

    @property
    def datasets(self) -> list[tuple[tuple[str | int, ...], DataSettings]]:
        """List (place, settings) of the source, if there is one, and of each target."""
        source = [(("source",), self.source)] if self.source is not None else []
        return [*source, *((("targets", i), data) for i, data in enumerate(self.targets))]

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
        entries = {
            check_label(str(label)): _with_name(str(label), entry)
            for label, entry in methods.items()
        }
        models = {
            label: settings_model(entry["method"]) if isinstance(entry, dict) else MethodSettings
            for label, entry in entries.items()
        }
        entries = {
            label: completed(entry, models[label]) if isinstance(entry, dict) else entry
            for label, entry in entries.items()
        }
        adapter: TypeAdapter[dict[str, MethodSettings]] = TypeAdapter(_typed_dict(models))
        if info.mode == "json":
            return dict(adapter.validate_json(json.dumps(entries), strict=True))
        return dict(adapter.validate_python(entries))

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        for axis in ("archs", "eps", "seeds"):
            values = getattr(self, axis)
            if twice := repeated(values):
                raise ValueError(f"{axis} names a value twice: {twice}")
        for axis, labels in (
            ("subsets", [s.name for s in self.subsets]),
            ("targets", [t.label for t in self.targets]),
            ("models", [model.name for model in self.models]),
        ):
            if twice := repeated(labels):
                raise ValueError(
                    f"two of the {axis} have the same name: {twice}; give each its own `name:`"
                )
        if bool(self.targets) != bool(self.methods or self.scores):
            raise ValueError(
                "targets and methods go together, or targets and scores: one without the other "
                "has no effect"
            )
        seen: dict[str, str] = {}
        for variant, settings in self.variants.items():
            if (same := seen.setdefault(settings.model_dump_json(), variant)) != variant:
                raise ValueError(f"the variants {same} and {variant} are equal; remove one of them")
        self._check_sources()
        if self.shortlist is not None:
            self._check_shortlist(self.shortlist)
        subsets = {subset.name for subset in self.subsets}
        for name in self.evaluate.common or ():
            if name not in subsets:
                raise ValueError(f"evaluate.common names {name}, which is not one of the subsets")
        self._check_selection()
        needs_reference = any(subset.needs_ranking == "reference" for subset in self.subsets)
        if needs_reference != (self.ranking is not None):
            raise ValueError(
                "`ranking:` is missing, which `by: reference` of a subset needs"
                if needs_reference
                else "`ranking:` has no effect: no subset has `by: reference`"
            )
        if (
            self.ranking
            and self.ranking.epochs
            and self.pretrain.progressive
            and self.pretrain.progressive.ramp[1] >= self.ranking.epochs
        ):
            raise ValueError(
                f"ranking.epochs is {self.ranking.epochs}: the reference model's training would "
                "end before pretrain.progressive.ramp does"
            )
        return self

    def _check_selection(self) -> None:
        """Check that selections name targets of the recipe and have no settings without effect."""
        labels = dict.fromkeys(target.label for target in self.targets)
        for subset in self.subsets:
            for name in subset.selection_targets:
                if name not in labels:
                    raise ValueError(
                        f"the subset {subset.name} is selected for {name}, which is none of the "
                        f"targets: {', '.join(labels) or 'there are none'}"
                    )
        requests = [request for subset in self.subsets for request in subset.requests]
        self.selection.check_used({request.method for request in requests})

    def _check_shortlist(self, shortlist: ShortlistSettings) -> None:
        if not self.models:
            raise ValueError("a shortlist selects among `models`, and there are none")
        if unknown := [label for label in shortlist.methods if label not in self.methods]:
            raise ValueError(
                f"shortlist.methods names {', '.join(unknown)}; "
                f"the methods are {', '.join(self.methods)}"
            )
        scores = names.names("harness.transfer.scores") if self.scores == "all" else self.scores
        if not any(
            shortlist.by == score or shortlist.by.startswith(f"{score}_") for score in scores
        ):
            raise ValueError(
                f"shortlist.by is {shortlist.by}, and the scores are {', '.join(scores) or 'none'}"
            )

    def _check_sources(self) -> None:
        """Check that there are models, and no settings of pretraining if nothing is pretrained."""
        if self.measures_models and self.source is None:
            raise ValueError(
                "source_accuracy: measured needs images: set source, such as "
                "`source: {dataset: imagenet, path: imagenet}`"
            )
        if self.measures_models and not self.models:
            raise ValueError(
                "source_accuracy: measured has no effect without models; models that the recipe "
                "trains are always evaluated"
            )
        is_only_measured_on = self.measures_models and not self.subsets
        if (self.source is None) == bool(self.subsets) and not is_only_measured_on:
            raise ValueError(
                "source and subsets go together: set both, such as `subsets: [all]`, or name "
                "`models`"
            )
        if self.source is None and not self.models:
            raise ValueError(
                "there is no model: set source and subsets to pretrain models, or name `models`"
            )
        pretraining = {
            "ranking",
            "selection",
            "in_place",
            "archs",
            "eps",
            "pretrain",
            "variants",
            "evaluate",
        }
        if not self.subsets and (unused := sorted(pretraining & self.model_fields_set)):
            without = "a source" if self.source is None else "subsets"
            raise ValueError(
                f"{', '.join(unused)} has no effect: without {without} nothing is pretrained"
            )
        if self.models and not self.targets and not self.measures_models:
            raise ValueError("models need targets: nothing else is done with them")
        if "weights_dir" in self.model_fields_set and not self.models:
            raise ValueError("weights_dir has no effect without models")


def _typed_dict(models: Mapping[str, type[MethodSettings]]) -> Any:
    """Make a type of dictionary with these keys; each value is an instance of the key's model."""
    make: Any = TypedDict
    return make("Methods", dict(models))


def _with_name(label: str, entry: Any) -> Any:
    """Return the settings of a method as a mapping that includes the method's name."""
    if isinstance(entry, MethodSettings):
        entry = entry.model_dump(exclude_unset=True)
    if not isinstance(entry, Mapping):
        return entry
    return {**entry, "method": names.normalize(str(entry.get("method") or label))}
