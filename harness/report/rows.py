"""Results to rows: one flat record per measured thing, in the recipe's order. What is not there makes no row.

Every table, figure and CSV file of the report is made from these rows. Accuracies are fractions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.result import Result
from harness.settings import Recipe

VIEWS = ("common_unmasked", "common_masked", "own")
ATTACKS = ("clean", "adversarial")
SPANS = ("data_wait", "copy", "attack", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class AccuracyRow:
    """One model on one set of source classes, clean or attacked."""

    arch: str
    subset: str
    num_classes: int | None     # the model's own; None where its training is not among the results
    eps: float                  # of training, and of the attack unless attack_eps differs
    seed: int
    view: str                   # one of VIEWS
    attack: str                 # one of ATTACKS
    attack_eps: float | None
    num_answers: int | None     # classes that may be answered: 1 / num_answers is chance
    num_images: int
    top1: float
    top5: float
    mean_per_class: float
    key: str


@dataclass(frozen=True)
class TransferRow:
    """One model carried over to one target by one method; scores are on the test split."""

    arch: str
    target: str
    method: str
    subset: str
    num_classes: int | None     # of the source subset
    eps: float
    seed: int
    metric: str                 # the target's own: top1, mean_per_class or map11
    num_answers: int | None     # classes of the target: 1 / num_answers is chance; None where an image has many labels
    num_images: int
    top1: float
    top5: float
    mean_per_class: float | None    # None where an image has many labels
    lr: float
    num_configs: int
    num_diverged: int           # of these, how many gave no number
    selected_on: str
    selected_score: float       # the target's metric on the split that chose
    key: str
    map11: float | None = None  # of many labels an image

    @property
    def score(self) -> float:
        """The target's own metric."""
        score = {"top1": self.top1, "mean_per_class": self.mean_per_class, "map11": self.map11}[self.metric]
        assert score is not None
        return score


@dataclass(frozen=True)
class GridRow:
    """One configuration that was tried on the way to a TransferRow."""

    arch: str
    target: str
    method: str
    subset: str
    eps: float
    seed: int
    lr: float
    val_top1: float | None          # None: it diverged
    val_mean_per_class: float | None
    chosen: bool
    val_map11: float | None = None


@dataclass(frozen=True)
class ClassRow:
    """One source class; `rank` counts from 1, hardest first. None where no ranking was made here."""

    rank: int | None
    name: str
    accuracy: float | None
    num_images: int | None
    removed_by: tuple[str, ...]     # names of the subsets without it, in the recipe's order


@dataclass(frozen=True)
class TimingRow:
    """Where one training run's time went. Spans are means over its steps."""

    kind: str
    name: str
    data_wait_ms: float
    copy_ms: float
    attack_ms: float
    forward_ms: float
    backward_ms: float
    optimizer_ms: float
    num_steps: int | None
    train_s: float | None
    eval_s: float | None
    checkpoint_s: float | None
    startup_s: float | None
    img_per_s: float | None
    replay_img_per_s: float | None
    gpu_fed: float | None
    data_wait_fraction: float | None
    verdict: str
    key: str

    @property
    def spans_ms(self) -> tuple[float, ...]:
        """In the order of SPANS."""
        return self.data_wait_ms, self.copy_ms, self.attack_ms, self.forward_ms, self.backward_ms, self.optimizer_ms


@dataclass(frozen=True)
class BetonRow:
    dataset: str
    subset: str
    split: str
    num_classes: int
    num_images: int
    size_bytes: int
    sha256: str
    path: str


@dataclass(frozen=True)
class StageRow:
    kind: str
    name: str
    key: str
    started_at: str
    wall_s: float


@dataclass(frozen=True)
class EnvironmentRow:
    """One fact about the machine or its software, and in how many of the stages it held."""

    name: str
    value: str
    num_stages: int


@dataclass(frozen=True)
class UnfinishedRow:
    stage: str


def accuracy_rows(recipe: Recipe, results: Sequence[Result]) -> list[AccuracyRow]:
    by_key = {result.key: result for result in results}
    rows = []
    for result in _of_kind(recipe, results, "evaluate"):
        num_classes = _num_classes_of_model(result, by_key)
        num_common = result.metrics["num_common_classes"]
        for attack in ATTACKS:
            scores_by_view = result.metrics.get(attack) or {}
            attack_eps = (result.metrics.get("attack") or {}).get("eps") if attack == "adversarial" else None
            for view in VIEWS:
                if scores := scores_by_view.get(view):
                    num_answers = num_common if view == "common_masked" else num_classes
                    rows.append(AccuracyRow(**_model_axes(result), num_classes=num_classes, view=view, attack=attack,
                                            attack_eps=attack_eps, num_answers=num_answers, **_scores(scores),
                                            key=result.key))
    return rows


def transfer_rows(recipe: Recipe, results: Sequence[Result]) -> list[TransferRow]:
    by_key = {result.key: result for result in results}
    rows = []
    for result in _of_kind(recipe, results, "transfer"):
        metrics = result.metrics
        rows.append(TransferRow(
            **_model_axes(result), target=result.axes["target"], method=result.axes["method"],
            num_classes=_num_classes_of_model(result, by_key), metric=metrics["metric"],
            num_answers=None if metrics["metric"] == "map11" else metrics.get("num_classes"), lr=metrics["lr"],
            **{name: metrics["test"].get(name) for name in ("num_images", "top1", "top5", "mean_per_class", "map11")},
            num_configs=metrics["num_configs"], num_diverged=sum(tried["val"] is None for tried in metrics["grid"]),
            selected_on=metrics["selected_on"],
            selected_score=metrics["val"][metrics["metric"]], key=result.key))
    return rows


def grid_rows(recipe: Recipe, results: Sequence[Result]) -> list[GridRow]:
    return [GridRow(**_model_axes(result), target=result.axes["target"], method=result.axes["method"], lr=tried["lr"],
                    val_top1=tried["val"] and tried["val"]["top1"],
                    val_mean_per_class=tried["val"] and tried["val"].get("mean_per_class"),
                    val_map11=tried["val"] and tried["val"].get("map11"),
                    chosen=tried["lr"] == result.metrics["lr"])
            for result in _of_kind(recipe, results, "transfer") for tried in result.metrics["grid"]]


def class_rows(recipe: Recipe, results: Sequence[Result]) -> list[ClassRow]:
    """Every source class that is known, hardest first where a ranking was made, else in label order."""
    ranking = next(iter(_of_kind(recipe, results, "rank")), None)
    kept = kept_classes(recipe, results)
    ranked, accuracy, num_images = (ranking.metrics[name] if ranking else {}
                                    for name in ("classes", "accuracy", "num_images"))
    names = dict.fromkeys([*ranked, *(name for classes in kept.values() for name in classes)])
    kept_sets = {subset: frozenset(classes) for subset, classes in kept.items()}
    return [ClassRow(rank=place if name in accuracy else None, name=name, accuracy=accuracy.get(name),
                     num_images=num_images.get(name),
                     removed_by=tuple(subset for subset, classes in kept_sets.items() if name not in classes))
            for place, name in enumerate(names, start=1)]


def kept_classes(recipe: Recipe, results: Sequence[Result]) -> dict[str, tuple[str, ...]]:
    """Class names of each source subset that has been written, in the recipe's order of subsets."""
    by_key = {result.key: result for result in results if result.kind == "write"}
    by_subset = {result.axes.get("subset"): tuple(result.metrics["classes"])
                 for result in by_key.values() if result.axes.get("dataset") == recipe.source.label}
    for model in results:       # a subset equal to another one shares its write stage, which bears the other's name
        if model.kind == "pretrain" and "role" not in model.axes and model.needs.get("data") in by_key:
            by_subset[model.axes["subset"]] = tuple(by_key[model.needs["data"]].metrics["classes"])
    return {subset.name: by_subset[subset.name] for subset in recipe.subsets if subset.name in by_subset}


def timing_rows(recipe: Recipe, results: Sequence[Result]) -> list[TimingRow]:
    rows = []
    for kind in ("pretrain", "transfer", "evaluate"):
        for result in _of_kind(recipe, results, kind):
            timing = result.timing
            if per_step_ms := timing.get("per_step_ms"):
                measured: dict[str, Any] = {f"{span}_ms": per_step_ms.get(span, 0.0) for span in SPANS}
                measured |= {name: timing.get(name) for name in (
                    "num_steps", "train_s", "eval_s", "checkpoint_s", "startup_s", "img_per_s", "replay_img_per_s",
                    "gpu_fed", "data_wait_fraction")}
                rows.append(TimingRow(kind=kind, name=result.name, **measured, verdict=timing.get("verdict", ""),
                                      key=result.key))
    return rows


def beton_rows(recipe: Recipe, results: Sequence[Result]) -> list[BetonRow]:
    return [BetonRow(dataset=str(result.axes.get("dataset", "")), subset=result.axes.get("subset") or "", split=split,
                     num_classes=len(result.metrics["classes"]), num_images=file["num_samples"],
                     size_bytes=file["bytes"], sha256=file["sha256"], path=file["path"])
            for result in _of_kind(recipe, results, "write") for split, file in result.metrics["splits"].items()]


def stage_rows(recipe: Recipe, results: Sequence[Result]) -> list[StageRow]:
    kinds = dict.fromkeys(["write", "pretrain", "rank", "evaluate", "transfer", *sorted(result.kind for result in results)])
    return [StageRow(kind=kind, name=result.name, key=result.key, started_at=result.started_at, wall_s=result.wall_s)
            for kind in kinds for result in _of_kind(recipe, results, kind)]


def environment_rows(results: Sequence[Result]) -> list[EnvironmentRow]:
    """Every fact the stages recorded, with each value that it took; facts sorted by name, commonest value first."""
    counts: dict[str, dict[str, int]] = {}
    for result in results:
        for name, value in _flatten(result.environment):
            values = counts.setdefault(name, {})
            values[value] = values.get(value, 0) + 1
    return [EnvironmentRow(name, value, num_stages) for name in sorted(counts)
            for value, num_stages in sorted(counts[name].items(), key=lambda item: (-item[1], item[0]))]


def _of_kind(recipe: Recipe, results: Sequence[Result], kind: str) -> list[Result]:
    """In the recipe's order, whatever the order in which stages finished."""
    places = {"arch": recipe.archs, "target": [target.label for target in recipe.targets],
              "method": list(recipe.methods), "subset": [subset.name for subset in recipe.subsets]}

    def order(result: Result) -> tuple[Any, ...]:
        axes = result.axes
        place = [names.index(axes[axis]) if axes.get(axis) in names else len(names) for axis, names in places.items()]
        return (*place, axes.get("eps") or 0.0, axes.get("seed") or 0, result.name, result.key)

    return sorted((result for result in results if result.kind == kind), key=order)


def _model_axes(result: Result) -> dict[str, Any]:
    return {axis: result.axes[axis] for axis in ("arch", "subset", "eps", "seed")}


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scores[name] for name in ("num_images", "top1", "top5", "mean_per_class")}


def _num_classes_of_model(result: Result, by_key: Mapping[str, Result]) -> int | None:
    model = by_key.get(result.needs.get("model", ""))
    return model.metrics["num_classes"] if model else None


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, item)) if isinstance(item, list | tuple) else _plain(item)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
