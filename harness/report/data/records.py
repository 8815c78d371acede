"""Record types of the report: one flat record per measured value.

`harness.report.data.rows` and `run_rows` create them from the results. Tables, figures and CSV
files are made from these records and from statistics of them. The CSV columns are the fields in
this order. Accuracies are fractions in [0, 1]. `key` is the key (a hash) of the stage that measured
the value.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from harness.config import methods

KNN = "knn"  # name of the nearest-neighbor score, which is an accuracy, unlike the other scores


class ModelId(NamedTuple):
    """Identifies a model apart from its seed.

    A loaded model (one of the recipe's `models`) has only `model`; a model that the recipe trains
    has only the other fields.
    """

    model: str
    arch: str
    subset: str
    variant: str
    eps: float


class ModelRecord(Protocol):
    """Fields that all records about a model share."""

    @property
    def model(self) -> str:
        """Name of a loaded model; "" for a model trained by the recipe."""

    @property
    def arch(self) -> str:
        """Architecture; "" for a loaded model."""

    @property
    def subset(self) -> str:
        """Pretraining subset; "" for a loaded model, and if training starts from random weights."""

    @property
    def num_classes(self) -> int | None:
        """Source classes of the model; None if unknown."""

    @property
    def variant(self) -> str:
        """Name of a set of settings that override those of pretraining; "" for none."""

    @property
    def same_variants(self) -> tuple[str, ...]:
        """Other variants of the recipe that give this same model."""

    @property
    def eps(self) -> float:
        """Attack radius in pretraining; 0 for clean training."""


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy of one model on one set of source classes, clean or attacked.

    Attributes:
        num_classes: classes of the model itself; None if its training result is missing.
        eps: attack radius in pretraining.
        view: `own` for images of the model's own classes; `common_unmasked` or `common_masked` for
            images of the classes that all subsets share. `common_masked` leaves out the logits of
            all other classes.
        attack: `clean` or `adversarial`.
        attack_eps: radius of the evaluation attack; None if clean.
        num_answers: number of classes that can be predicted; chance is 1 / num_answers.
        same_variants: other variants of the recipe that give this same model.
        attacked_logits: `scored` if the attack used only the logits that the view scores, `all` if
            it used all logits of the model; "" if clean.
    """

    arch: str
    subset: str
    num_classes: int | None
    eps: float
    seed: int
    view: str
    attack: str
    attack_eps: float | None
    num_answers: int | None
    num_images: int
    top1: float
    top5: float
    mean_per_class: float
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()
    attacked_logits: str = ""


@dataclass(frozen=True)
class CoarseRow:
    """Accuracy of one model on the coarser labels of another subset, clean or attacked.

    Attributes:
        subset: the model's pretraining subset.
        labels: name of the subset whose labels are predicted.
        num_labels: number of these labels that the model can predict. A model that was trained on
            some of the classes may cover only some of the labels.
        by: how a label's probability follows from those of its fine classes, `sum` or `max`; `own`
            if the labels are the model's own classes.
        attack: `clean` or `adversarial`.
    """

    arch: str
    subset: str
    num_classes: int | None
    eps: float
    seed: int
    labels: str
    num_labels: int
    by: str
    attack: str
    num_images: int
    top1: float
    mean_per_class: float
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()


@cache
def _is_scratch(method: str) -> bool:
    return method in methods.available() and methods.settings_model(method).NEEDS is None


@cache
def _is_head_only(method: str) -> bool:
    return method in methods.available() and methods.settings_model(method).TRAINS_HEAD_ONLY


@dataclass(frozen=True)
class TransferRow:
    """Test scores of one model transferred to one target by one method.

    Attributes:
        method: name of the method in the recipe; `kind` is the module that implements it.
        num_classes: classes of the source subset; None if unknown.
        metric: the target's metric: top1, mean_per_class, map11 or map50_11.
        num_answers: classes of the target; None for multi-label targets and for detection.
        top1: top-1 accuracy; None for detection, as is top5.
        mean_per_class: None for multi-label targets and for detection.
        lr: chosen learning rate; None if the method has none.
        num_diverged: configurations of the grid that diverged.
        selected_on: split on which the configuration was selected.
        selected_score: the target's metric on that split.
        map11: 11-point mean average precision of multi-label targets, otherwise None.
        map50_11: 11-point mean average precision of detections at an IoU of 0.5, otherwise None;
            map50 uses all recalls.
        per_class: training images per target class; None means all.
        steps: training steps; None means the method's epochs decide.
        source_accuracy: top-1 on the source classes that all models share; for loaded models, the
            measured or else the published ImageNet accuracy; None if unknown.
        source_accuracy_from: `measured` or `published`; "" if source_accuracy is None.
        chosen: the selected value of every axis of the grid.
        network: architecture without its library and weights; "" if unknown.
        training: kind of training of a loaded model, such as self-supervised; "" if unknown.
        num_parameters: parameters of the source model, with its head; None if unknown.
    """

    arch: str
    target: str
    method: str
    subset: str
    num_classes: int | None
    eps: float
    seed: int
    metric: str
    num_answers: int | None
    num_images: int
    top1: float | None
    top5: float | None
    mean_per_class: float | None
    lr: float | None
    num_configs: int
    num_diverged: int
    selected_on: str
    selected_score: float
    key: str
    map11: float | None = None
    map50_11: float | None = None
    map50: float | None = None
    variant: str = ""
    model: str = ""
    kind: str = ""
    per_class: int | None = None
    steps: int | None = None
    num_source_images: int | None = None
    source_accuracy: float | None = None
    chosen: Mapping[str, object] = field(default_factory=dict)
    same_variants: tuple[str, ...] = ()
    network: str = ""
    training: str = ""
    num_parameters: int | None = None
    source_accuracy_from: str = ""

    @property
    def model_id(self) -> ModelId:
        """The model apart from its seed."""
        return ModelId(self.model, self.arch, self.subset, self.variant, self.eps)

    @property
    def is_scratch(self) -> bool:
        """True if the network started from random weights."""
        return _is_scratch(self.kind)

    @property
    def is_head_only(self) -> bool:
        """True if the backbone was not trained."""
        return _is_head_only(self.kind)

    @property
    def size(self) -> tuple[float, float]:
        """Training images per class and steps; infinite if not limited."""
        return self.per_class or math.inf, self.steps or math.inf

    @property
    def score(self) -> float:
        """The target's metric on the test split."""
        score = {
            "top1": self.top1,
            "mean_per_class": self.mean_per_class,
            "map11": self.map11,
            "map50_11": self.map50_11,
        }[self.metric]
        assert score is not None
        return score

    @property
    def logit(self) -> float:
        """Logit of the score, equal to `summaries.logit` but without numpy's overhead."""
        margin = 0.5 / self.num_images
        fraction = min(max(self.score, margin), 1 - margin)
        return math.log(fraction / (1 - fraction))


class GridRow(NamedTuple):
    """Validation scores of one configuration that was tried for a TransferRow.

    Making a named tuple takes a quarter of the time of a frozen dataclass.

    Attributes:
        val_top1: top-1 on val; None if the run diverged, as are the other scores.
        chosen: True for the configuration that was selected.
        val_score: the target's metric on val.
        setting: grid axis -> value.
        key: key of the transfer stage.
    """

    arch: str
    target: str
    method: str
    subset: str
    eps: float
    seed: int
    lr: float | None
    val_top1: float | None
    val_mean_per_class: float | None
    chosen: bool
    val_map11: float | None = None
    val_map50_11: float | None = None
    val_score: float | None = None
    variant: str = ""
    model: str = ""
    per_class: int | None = None
    steps: int | None = None
    setting: Mapping[str, object] = MappingProxyType({})
    key: str = ""
    same_variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreRow:
    """One transferability score of one model for one target; higher is better.

    Attributes:
        num_images: target training images that the score was computed from.
        num_classes: classes of the source subset.
        num_answers: classes of the target.
        num_parameters: parameters of the model, with its head; None if unknown.
        source_accuracy_from: as in `TransferRow`.
    """

    arch: str
    target: str
    name: str
    value: float
    subset: str
    eps: float
    seed: int
    num_images: int | None
    source_accuracy: float | None
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()
    num_classes: int | None = None
    num_source_images: int | None = None
    num_answers: int | None = None
    num_parameters: int | None = None
    source_accuracy_from: str = ""

    @property
    def model_id(self) -> ModelId:
        """The model apart from its seed."""
        return ModelId(self.model, self.arch, self.subset, self.variant, self.eps)


@dataclass(frozen=True)
class SourceAccuracyRow:
    """Top-1 of one loaded model on the source dataset, as published and as measured here.

    Attributes:
        published: published ImageNet top-1; None if unknown.
        measured: top-1 measured here. If the model was not measured, this field, num_images,
            resolution and eval_crop are None.
        num_images: number of val images of the source in the measurement.
        resolution: resolution of the measurement, in pixels per side.
        not_measured: reason why the model was not measured; "" if it was.
    """

    model: str
    published: float | None
    measured: float | None
    num_images: int | None
    resolution: int | None
    eval_crop: float | None
    not_measured: str
    key: str

    @property
    def difference(self) -> float | None:
        """Measured minus published; None if one of them is unknown."""
        if self.measured is None or self.published is None:
            return None
        return self.measured - self.published


@dataclass(frozen=True)
class ClassRow:
    """One source class.

    Attributes:
        rank: 1 is the hardest class. If the recipe has no ranking, this field, accuracy and
            num_images are None.
        removed_by: subsets that lack the class, in the recipe's order.
    """

    rank: int | None
    name: str
    accuracy: float | None
    num_images: int | None
    removed_by: tuple[str, ...]


Row = TypeVar("Row", AccuracyRow, TransferRow, ScoreRow)


def format_eps(eps: float) -> str:
    """Format an attack radius: `0.5`, or `8/255` if that is shorter.

    Linf radii are usually multiples of 1/255 or of 0.5/255.
    """
    levels = round(2 * 255 * eps) / 2
    decimal, fraction = f"{eps:g}", f"{levels:g}/255"
    return fraction if len(fraction) < len(decimal) and abs(255 * eps - levels) < 1e-3 else decimal


def at_full_size(rows: Iterable[TransferRow]) -> list[TransferRow]:
    """Select, for each method and target, the rows with the most images per class and most steps.

    These rows are the last points of the curves over training size. All other comparisons use only
    these rows.
    """
    rows = list(rows)
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for row in rows:
        place = row.method, row.target
        largest[place] = max(largest.get(place, (0, 0)), row.size)
    return [row for row in rows if row.size == largest[row.method, row.target]]


def under_every_variant(rows: Iterable[Row]) -> list[Row]:
    """Add a copy of each row for every other variant that gives the same model.

    Comparisons within a variant then find the model under each of its variants.
    """
    expanded: list[Row] = []
    for row in rows:
        expanded.append(row)
        expanded += [
            replace(row, variant=variant, same_variants=()) for variant in row.same_variants
        ]
    return expanded
