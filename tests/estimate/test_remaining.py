"""The remaining time of a run, against a simulated run with known rates."""

from pathlib import Path

import pytest

from harness.config import load
from harness.estimate.remaining import RemainingTime, Running
from harness.matrix.expand import expand
from harness.matrix.stage import Stage

OVERHEAD_S = 1.0  # of every stage


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return list(expand(load.read("demo", ["seeds=[0,1,2]"])).stages)


def simulated(stages: list[Stage], runs: Path) -> dict[str, float]:
    """Seconds of each stage, if one pass of an image at 224 pixels takes 20 ms."""
    remaining = RemainingTime({stage.key: stage for stage in stages}, runs)
    return {
        stage.key: OVERHEAD_S
        + (0.02 * remaining._work[stage.key] if stage.kind not in ("write", "rank") else 2.0)
        for stage in stages
    }


@pytest.mark.parametrize("num_slots", [1, 4])
def test_the_estimate_settles_within_a_tenth_of_the_run(
    stages: list[Stage], tmp_path: Path, num_slots: int
):
    takes = simulated(stages, tmp_path)
    remaining = RemainingTime({stage.key: stage for stage in stages}, tmp_path)
    total_s, done_s = sum(takes.values()), 0.0
    assert remaining.seconds(stages, [], num_slots) is None, "nothing is known"
    for index, stage in enumerate(stages):
        remaining.add(stage, takes[stage.key])
        done_s += takes[stage.key]
        if 0.1 * total_s < done_s < 0.95 * total_s:
            left_s = remaining.seconds(stages[index + 1 :], [], num_slots)
            assert left_s is not None
            longest = max(takes[stage.key] for stage in stages[index + 1 :])
            truth = max((total_s - done_s) / num_slots, longest)
            assert left_s == pytest.approx(truth, rel=0.25)


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


def test_nothing_is_left_at_the_end(stages: list[Stage], tmp_path: Path):
    assert RemainingTime({}, tmp_path).seconds([], [], 2) == 0.0


def test_the_longest_stage_bounds_many_slots(stages: list[Stage], tmp_path: Path):
    trained = [stage for stage in stages if stage.kind == "pretrain"]
    remaining = RemainingTime({stage.key: stage for stage in trained}, tmp_path)
    remaining.add(trained[0], 100.0)
    alone = [remaining.seconds([stage], [], 1) or 0.0 for stage in trained[1:]]
    assert remaining.seconds(trained[1:], [], 1000) == pytest.approx(max(alone))
