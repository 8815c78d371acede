"""Make records about the runs: timing, written files, stages and environment."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.report.data.collection import Collection

SPANS = ("data_wait", "copy", "augment", "attack", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class TimingRow:
    """Timing of one training run. Times of the phases of a step (SPANS) are means over steps.

    Attributes:
        replay_img_per_s: images/s when one batch, already on the device, is trained on repeatedly.
        gpu_fed: images/s end to end, as a fraction of replay_img_per_s.
        data_wait_fraction: fraction of a step spent waiting for data.
        verdict: one sentence about the bottleneck.
        val_top1: accuracy of a pretrained model on val; None for other kinds.
        wall_s: seconds of the whole stage.
        energy_wh: energy that the GPU used during the stage, in watt-hours; None if not measured.
        gpu: name of the GPU, "" on a CPU.
        gpu_memory_bytes: peak of the memory reserved on the GPU; None on a CPU.
    """

    kind: str
    name: str
    data_wait_ms: float
    copy_ms: float
    augment_ms: float
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
    val_top1: float | None = None
    wall_s: float | None = None
    energy_wh: float | None = None
    gpu: str = ""
    gpu_memory_bytes: int | None = None

    @property
    def spans_ms(self) -> tuple[float, ...]:
        """Milliseconds per step in the order of SPANS."""
        return (
            self.data_wait_ms,
            self.copy_ms,
            self.augment_ms,
            self.attack_ms,
            self.forward_ms,
            self.backward_ms,
            self.optimizer_ms,
        )


@dataclass(frozen=True)
class BetonRow:
    """One written .beton file. Results of older versions have no `classes_without_images`."""

    dataset: str
    subset: str
    split: str
    num_classes: int
    num_images: int
    size_bytes: int
    sha256: str
    path: str
    classes_without_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageRow:
    """One finished stage. `precision` is the network's number format, "" if it has none."""

    kind: str
    name: str
    key: str
    started_at: str
    wall_s: float
    precision: str = ""


@dataclass(frozen=True)
class EnvironmentRow:
    """One fact about the machine or its software, and the number of stages that recorded it."""

    name: str
    value: str
    num_stages: int


@dataclass(frozen=True)
class UnfinishedRow:
    """A stage without a usable result.

    Attributes:
        reason: main line of the stage's error, or the reason why its result is left out; "" if the
            stage has not failed.
    """

    stage: str
    reason: str = ""


def timing_rows(results: Collection) -> list[TimingRow]:
    """Return the timing of every stage that recorded its steps, grouped by kind."""
    rows = []
    for kind in results.kinds:
        for result in results.of(kind):
            timing = result.timing
            if per_step_ms := timing.get("per_step_ms"):
                rows.append(
                    TimingRow(
                        kind=kind,
                        name=result.name,
                        data_wait_ms=per_step_ms.get("data_wait", 0.0),
                        copy_ms=per_step_ms.get("copy", 0.0),
                        augment_ms=per_step_ms.get("augment", 0.0),
                        attack_ms=per_step_ms.get("attack", 0.0),
                        forward_ms=per_step_ms.get("forward", 0.0),
                        backward_ms=per_step_ms.get("backward", 0.0),
                        optimizer_ms=per_step_ms.get("optimizer", 0.0),
                        num_steps=timing.get("num_steps"),
                        train_s=timing.get("train_s"),
                        eval_s=timing.get("eval_s"),
                        checkpoint_s=timing.get("checkpoint_s"),
                        startup_s=timing.get("startup_s"),
                        img_per_s=timing.get("img_per_s"),
                        replay_img_per_s=timing.get("replay_img_per_s"),
                        gpu_fed=timing.get("gpu_fed"),
                        data_wait_fraction=timing.get("data_wait_fraction"),
                        verdict=timing.get("verdict", ""),
                        key=result.key,
                        val_top1=(result.metrics.get("val") or {}).get("top1")
                        if kind == "pretrain"
                        else None,
                        wall_s=result.wall_s,
                        energy_wh=(timing.get("gpu") or {}).get("energy_wh"),
                        gpu=str(result.environment.get("gpu") or ""),
                        gpu_memory_bytes=result.gpu_memory_bytes,
                    )
                )
    return rows


def beton_rows(results: Collection, kind: str = "write") -> list[BetonRow]:
    """Return every written file, one row per split.

    With the kind `view`, return every selection of images instead. Its rows have the classes and
    images that are selected, and the size and digest of the file that has them.
    """
    return [
        BetonRow(
            dataset=str(result.axes.get("dataset", "")),
            subset=result.axes.get("subset") or "",
            split=split,
            num_classes=len(result.metrics["classes"]),
            num_images=file["num_samples"],
            size_bytes=file["bytes"],
            sha256=file["sha256"],
            path=file["path"],
            classes_without_images=tuple(file.get("classes_without_images", ())),
        )
        for result in results.of(kind)
        for split, file in result.metrics["splits"].items()
    ]


def stage_rows(results: Collection) -> list[StageRow]:
    """Return every finished stage, by kind, in the order in which a recipe runs the kinds."""
    return [
        StageRow(
            kind=kind,
            name=result.name,
            key=result.key,
            started_at=result.started_at,
            wall_s=result.wall_s,
            precision=result.metrics.get("precision") or "",
        )
        for kind in results.kinds
        for result in results.of(kind)
    ]


def environment_rows(results: Collection) -> list[EnvironmentRow]:
    """Return every recorded fact with its values, sorted by name, the most frequent value first."""
    # Results of a large recipe share the objects of equal environments, so count objects.
    shared = {id(result.environment): result.environment for result in results}
    num_stages = Counter(id(result.environment) for result in results)
    counts: dict[str, Counter[str]] = {}
    for place, environment in shared.items():
        for name, value in _flatten(environment):
            counts.setdefault(name, Counter())[value] += num_stages[place]
    return [
        EnvironmentRow(name, value, number)
        for name in sorted(counts)
        for value, number in sorted(counts[name].items(), key=lambda item: (-item[1], item[0]))
    ]


def _flatten(value: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, item))
        else:
            yield f"{prefix}{name}", _format(item)


def _format(value: object) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
