"""The remaining time of a run, against simulated runs with known rates and two recorded ones."""

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.config import load
from harness.estimate.remaining import RemainingTime, Running
from harness.estimate.smoothed import Smoothed
from harness.estimate.workload import Workloads
from harness.matrix.expand import Matrix, expand
from harness.matrix.stage import Stage
from harness.matrix.workload import Workload

OVERHEAD = 50  # time that every simulated stage adds to its work, in passes (see `passes`)
# Two runs of the demo on two cores of an AMD EPYC, 62 and 136 s long. During the second one, two
# other processes used the cores. For each stage: name, seconds of its start and end.
RECORDED = Path(__file__).with_name("demo_runs.json")


class Recorded(NamedTuple):
    stage: Stage
    start_s: float
    end_s: float


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return expand(load.read("demo", ["seeds=[0,1,2]"]))


@pytest.fixture(scope="module")
def stages(matrix: Matrix) -> list[Stage]:
    return list(matrix.stages)


def passes(stage: Stage, workload: Workload) -> float:
    """Return the work of a part of a stage, in passes: forward passes of one image at 224 pixels."""
    step: dict[str, Any] = workload.step
    settings = step.get("settings", {})
    attack = step.get("attack") or (settings["attack"] if step.get("attacked") else {})
    num = 2.0 * attack.get("steps", 0)
    if step["step"] in ("pretrain", "transfer"):
        num += 1 if stage.axes.get("method") == "fixed" else 3
    resolution = step.get("resolution") or settings["resolution"]
    return workload.num_images * max(1.0, num) * (resolution / 224) ** 2


def simulated(stages: list[Stage], runs: Path, pass_s: float = 0.02) -> dict[str, float]:
    """Return the seconds of each stage, by key, if a pass of an image at 224 px takes `pass_s`."""
    workloads = Workloads(runs)
    return {
        stage.key: pass_s
        * (
            OVERHEAD + sum(passes(stage, part) for part in workloads.of(stage) or ())
            if stage.kind not in ("write", "rank")
            else 200
        )
        for stage in stages
    }


def scheduled(matrix: Matrix, takes: dict[str, float], num_slots: int) -> list[Recorded]:
    """Simulate a run by a plain loop: a free slot takes the most urgent stage that may start.

    `takes`: stage key -> seconds.
    """
    left, free, done, rows = list(matrix.stages), [0.0] * num_slots, {}, []
    while left:
        now = min(free)
        ready = [
            stage
            for stage in left
            if all(done.get(need.key, float("inf")) <= now for need in stage.waits_for)
        ]
        if not ready:
            free[free.index(now)] = min(end for end in done.values() if end > now)
            continue
        stage = max(ready, key=lambda stage: matrix.urgency[stage.key])
        left.remove(stage)
        free[free.index(now)] = done[stage.key] = now + takes[stage.key]
        rows.append(Recorded(stage, now, done[stage.key]))
    return rows


def replayed(
    matrix: Matrix, rows: Iterable[Recorded], runs: Path, *, num_slots: int, on_cpu: bool
) -> Iterator[tuple[float, float | None]]:
    """Replay a run; yield the elapsed fraction of its time, and estimated / real total time.

    A pretraining reports progress only of its steps, which begin half a second after its start.
    """
    rows = list(rows)
    pending = {row.stage.key: row.stage for row in rows}
    remaining = RemainingTime(pending, runs, matrix.urgency, on_cpu=on_cpu)
    shown, total_s, counted = Smoothed(), max(row.end_s for row in rows), set()
    num_points = 100
    for point in range(num_points):
        now = point / num_points * total_s
        running = []
        for row in rows:
            if row.end_s <= now and row.stage.key not in counted:
                counted.add(row.stage.key)
                remaining.add(row.stage, row.end_s - row.start_s)
            elif row.start_s <= now < row.end_s:
                elapsed_s = now - row.start_s
                fraction = (elapsed_s - 0.5) / (row.end_s - row.start_s - 0.5)
                is_counted = row.stage.kind == "pretrain"
                running.append(
                    Running(row.stage, elapsed_s, max(0.0, fraction) if is_counted else 0.0)
                )
        out = counted | {one.stage.key for one in running}
        waiting = [stage for key, stage in pending.items() if key not in out]
        left_s = shown.next(now, remaining.seconds(waiting, running, num_slots))
        yield now / total_s, None if left_s is None else (now + left_s) / total_s


@pytest.mark.parametrize("num_slots", [1, 4])
@pytest.mark.parametrize("pass_s", [0.003, 0.2])
def test_the_estimate_settles_whatever_the_speed_of_the_machine(
    matrix: Matrix, tmp_path: Path, num_slots: int, pass_s: float
):
    takes = simulated(list(matrix.stages), tmp_path, pass_s)
    rows = scheduled(matrix, takes, num_slots)
    after = [
        ratio
        for part, ratio in replayed(matrix, rows, tmp_path, num_slots=num_slots, on_cpu=False)
        if part >= 0.2
    ]
    assert None not in after
    assert all(ratio == pytest.approx(1, abs=0.25) for ratio in after)


@pytest.mark.parametrize(("run", "settled_at"), [("idle", 0.1), ("loaded", 0.2)])
def test_the_estimate_of_a_recorded_run_of_the_demo(run: str, settled_at: float, tmp_path: Path):
    matrix = expand(load.read("demo"))  # as it was recorded
    by_name = {stage.name: stage for stage in matrix.stages}
    rows = [
        Recorded(by_name[name], start_s, end_s)
        for name, start_s, end_s in json.loads(RECORDED.read_text())[run]
    ]
    assert len(rows) == len(by_name)
    points = list(replayed(matrix, rows, tmp_path, num_slots=2, on_cpu=True))
    ratios = {part: ratio for part, ratio in points if ratio is not None}
    assert len(ratios) == len(points), "the demo's network is that of the reference machine"
    settled = [ratio for part, ratio in ratios.items() if part >= settled_at]
    assert all(abs(ratio - 1) < 0.1 for ratio in settled)
    assert all(abs(new - old) < 0.1 for old, new in pairwise(settled))


def test_nothing_is_shown_while_nothing_is_known(stages: list[Stage], tmp_path: Path):
    pending = {stage.key: stage for stage in stages}
    assert RemainingTime(pending, tmp_path).seconds(stages, [], 2) is None
    [write] = [stage for stage in stages if stage.name == "write/synthetic_patterns/all"]
    remaining = RemainingTime(pending, tmp_path)
    remaining.add(write, 100.0)
    others = [stage for stage in stages if stage.key != write.key]
    assert remaining.seconds(others, [], 2) is None, "a write predicts no training"


def test_the_progress_of_the_first_training_predicts_the_others(
    stages: list[Stage], tmp_path: Path
):
    takes = simulated(stages, tmp_path)
    trained = [stage for stage in stages if stage.kind in ("pretrain", "evaluate")]
    remaining = RemainingTime({stage.key: stage for stage in stages}, tmp_path)
    first, *others = trained
    running = Running(first, takes[first.key] / 4, 0.25)
    truth = sum(takes[stage.key] for stage in trained) - running.elapsed_s
    assert remaining.seconds(others, [running], 1) == pytest.approx(truth, rel=0.25)
    assert remaining.seconds(others, [Running(first, 0.2, 0.01)], 1) is None


def test_the_last_evaluation_of_a_training_is_left_after_its_last_step(
    stages: list[Stage], tmp_path: Path
):
    first = next(stage for stage in stages if stage.kind == "pretrain")
    *training, evaluation = [passes(first, part) for part in Workloads(tmp_path).of(first) or ()]
    remaining = RemainingTime({first.key: first}, tmp_path)
    left_s = remaining.seconds([], [Running(first, 1000.0, 1.0)], 1)
    assert left_s == pytest.approx(1000 * evaluation / sum(training), rel=0.1)


def test_the_progress_of_one_pass_of_several_does_not_count(stages: list[Stage], tmp_path: Path):
    transfer = next(stage for stage in stages if stage.kind == "transfer")
    remaining = RemainingTime({transfer.key: transfer}, tmp_path)
    assert remaining.seconds([], [Running(transfer, 10.0, 0.9)], 1) is None


def test_a_stage_that_takes_longer_than_expected_makes_the_others_longer(
    stages: list[Stage], tmp_path: Path
):
    trained = [stage for stage in stages if stage.kind == "pretrain"]
    remaining = RemainingTime({stage.key: stage for stage in trained}, tmp_path)
    first, second, *others = trained
    remaining.add(first, 10.0)
    early, late = (
        remaining.seconds(others, [Running(second, elapsed_s, 0.0)], 1) or 0.0
        for elapsed_s in (1.0, 200.0)
    )
    assert late > early + 50


def test_nothing_is_left_at_the_end(tmp_path: Path):
    assert RemainingTime({}, tmp_path).seconds([], [], 2) == 0.0


def test_the_longest_path_bounds_many_slots(stages: list[Stage], tmp_path: Path):
    """Each pretraining waits for the writing of its subset, however many slots there are."""
    chain = [stage for stage in stages if stage.kind in ("write", "rank", "pretrain")]
    takes = {stage.key: 10.0 for stage in chain}
    remaining = RemainingTime({stage.key: stage for stage in chain}, tmp_path)
    for stage in chain:
        remaining.add(stage, takes[stage.key])
    alone = {stage.key: remaining.seconds([stage], [], 1) or 0.0 for stage in chain}
    ends: dict[str, float] = {}
    for stage in chain:
        ends[stage.key] = alone[stage.key] + max(
            (ends.get(need.key, 0.0) for need in stage.waits_for), default=0.0
        )
    assert remaining.seconds(chain, [], 1000) == pytest.approx(max(ends.values()))
    assert remaining.seconds(chain, [], 1) == pytest.approx(sum(alone.values()))


def test_a_displayed_estimate_follows_without_jumps():
    shown = Smoothed()
    assert shown.next(1.0, None) is None
    assert shown.next(2.0, 98.0) == 98.0
    after_jump = shown.next(4.0, 196.0)  # the estimated total has doubled
    assert after_jump is not None and 96.0 < after_jump < 160.0
    for second in range(5, 60):
        last = shown.next(float(second), 200.0 - second)
    assert last == pytest.approx(200.0 - 59, rel=0.02)
