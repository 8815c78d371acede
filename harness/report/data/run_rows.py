"""Results to rows about the runs themselves: where the time went, what was written, what ran on what, what did not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.report.data.collection import Collection

SPANS = ("data_wait", "copy", "attack", "forward", "backward", "optimizer")
TRAINED = ("pretrain", "transfer", "evaluate")
KINDS = ("write", "pretrain", "adopt", "rank", "evaluate", "features", "score", "transfer")


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
        return (
            self.data_wait_ms,
            self.copy_ms,
            self.attack_ms,
            self.forward_ms,
            self.backward_ms,
            self.optimizer_ms,
        )


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
    precision: str = ""  # that the network computed in; empty if the stage has none


@dataclass(frozen=True)
class EnvironmentRow:
    """One fact about the machine or its software, and in how many of the stages it held."""

    name: str
    value: str
    num_stages: int


@dataclass(frozen=True)
class UnfinishedRow:
    """A stage without a result; `reason` is the line of its error that says most, empty where it has not failed."""

    stage: str
    reason: str = ""


def timing_rows(found: Collection) -> list[TimingRow]:
    rows = []
    for kind in TRAINED:
        for result in found.of(kind):
            timing = result.timing
            if per_step_ms := timing.get("per_step_ms"):
                measured: dict[str, Any] = {
                    f"{span}_ms": per_step_ms.get(span, 0.0) for span in SPANS
                }
                measured |= {
                    name: timing.get(name)
                    for name in (
                        "num_steps",
                        "train_s",
                        "eval_s",
                        "checkpoint_s",
                        "startup_s",
                        "img_per_s",
                        "replay_img_per_s",
                        "gpu_fed",
                        "data_wait_fraction",
                    )
                }
                rows.append(
                    TimingRow(
                        kind=kind,
                        name=result.name,
                        **measured,
                        verdict=timing.get("verdict", ""),
                        key=result.key,
                    )
                )
    return rows


def beton_rows(found: Collection) -> list[BetonRow]:
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
        )
        for result in found.of("write")
        for split, file in result.metrics["splits"].items()
    ]


def stage_rows(found: Collection) -> list[StageRow]:
    kinds = dict.fromkeys([*KINDS, *sorted(found.kinds)])
    return [
        StageRow(
            kind=kind,
            name=result.name,
            key=result.key,
            started_at=result.started_at,
            wall_s=result.wall_s,
            precision=result.metrics.get("precision") or "",
        )
        for kind in kinds
        for result in found.of(kind)
    ]


def environment_rows(found: Collection) -> list[EnvironmentRow]:
    """Every fact the stages recorded, with each value that it took; facts sorted by name, commonest value first."""
    counts: dict[str, dict[str, int]] = {}
    for result in found:
        for name, value in _flatten(result.environment):
            values = counts.setdefault(name, {})
            values[value] = values.get(value, 0) + 1
    return [
        EnvironmentRow(name, value, num_stages)
        for name in sorted(counts)
        for value, num_stages in sorted(counts[name].items(), key=lambda item: (-item[1], item[0]))
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            yield (
                f"{prefix}{name}",
                ", ".join(map(str, item)) if isinstance(item, list | tuple) else _plain(item),
            )


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
