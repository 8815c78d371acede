"""Cheap measures of a target that select settings of a grid, on grids with a known best setting."""

import pytest

from harness.report.data.records import GridRow, ScoreRow
from harness.report.stats.fit_measures import ONE_FOR_ALL, FitMeasure, fit_measures

BEST = {"a": 0, "b": 0, "c": 1, "d": 1}  # target -> its best `reinit_last`
USEFUL, USELESS = (
    {"a": 0.1, "b": 0.2, "c": 0.8, "d": 0.9},
    {"a": 0.1, "c": 0.2, "b": 0.8, "d": 0.9},
)


def grid_row(target: str, blocks: int, val: float | None) -> GridRow:
    return GridRow(
        arch="",
        target=target,
        method="l2sp",
        subset="",
        eps=0.0,
        seed=0,
        lr=0.1,
        val_top1=val,
        val_mean_per_class=None,
        chosen=False,
        val_score=val,
        setting={"lr": 0.1, "reinit_last": blocks},
    )


def score_row(target: str, name: str, value: float) -> ScoreRow:
    return ScoreRow("", target, name, value, "", 0.0, 0, 800, None, "key")


def grids(best: dict[str, int]) -> list[tuple[str, str, list[GridRow]]]:
    return [
        (target, "l2sp", [grid_row(target, n, 0.9 if n == blocks else 0.7) for n in (0, 1)])
        for target, blocks in best.items()
    ]


def scores() -> list[ScoreRow]:
    return [
        score_row(target, name, value)
        for name, values in (("useful", USEFUL), ("useless", USELESS))
        for target, value in values.items()
    ]


def test_a_measure_that_groups_targets_by_their_best_setting_finds_it() -> None:
    found = {fit.measure: fit for fit in fit_measures(grids(BEST), [], scores())}
    assert found["useful"] == FitMeasure("l2sp", "useful", 4, 4, 0.0)
    assert found["useless"].times_found == 0
    assert found["useless"].mean_loss == pytest.approx(0.2)
    # If a target is left out, the mean of the others selects the setting that is worse for it.
    assert found[ONE_FOR_ALL].times_found == 0
    assert next(iter(found)) == "useful"


def test_two_targets_and_settings_that_not_all_targets_tried_are_not_judged() -> None:
    assert fit_measures(grids({"a": 0, "b": 1}), [], scores()) == []
    one = [("e", "l2sp", [grid_row("e", 5, 0.9)])]
    assert fit_measures([*grids(BEST), *one], [], scores()) == []


def test_a_diverged_setting_loses() -> None:
    rows = [("e", "l2sp", [grid_row("e", 0, None), grid_row("e", 1, 0.4)])]
    found = {fit.measure: fit for fit in fit_measures([*grids(BEST), *rows], [], [])}
    assert list(found) == [ONE_FOR_ALL]
    assert found[ONE_FOR_ALL].num_targets == 5
