"""The first figure has means over shared targets, and the first sentence agrees with it."""

import csv
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from harness.config.load import read
from harness.report.data.records import ModelId
from harness.report.render.figures import plot
from harness.report.render.figures.means import MAX_MODELS, mean_panel
from harness.report.render.figures.models import place_names
from harness.report.render.figures.plot import NUM_COLORS, marker_place
from harness.report.render.sections import _transfer_legend
from harness.report.stats.leaderboard import ScoreMatrix
from harness.report.text.findings import about_best_model

NAN = math.nan


def matrix(method: str, scores: list[list[float]], names: list[str] | None = None) -> ScoreMatrix:
    values = np.array(scores)
    names = names or [f"net{row}" for row in range(len(values))]
    return ScoreMatrix(
        method,
        False,
        tuple(ModelId(name, "", "", "", 0.0) for name in names),
        tuple(names),
        tuple(f"target{column}" for column in range(values.shape[1])),
        values,
        values,
        np.full(len(values), NAN),
        (),
        tuple(names),
        np.full(len(values), NAN),
    )


def rows_of(matrices: dict[str, ScoreMatrix]) -> dict[tuple[str, str], float]:
    panel = mean_panel(matrices)
    assert panel is not None
    return {
        (row["model"], row["method"]): float(row["mean"])
        for row in csv.DictReader(panel.data.splitlines())
    }


def test_means_are_over_targets_that_all_shown_models_have() -> None:
    full = matrix("full", [[0.5, 0.7], [0.9, NAN], [0.6, 0.8]])
    fixed = matrix("fixed", [[0.2], [0.4], [0.3]])
    found = rows_of({"full": full, "fixed": fixed})
    assert found == pytest.approx(
        {
            ("net2", "full"): 0.7,
            ("net0", "full"): 0.6,
            ("net1", "fixed"): 0.4,
            ("net2", "fixed"): 0.3,
            ("net0", "fixed"): 0.2,
        }
    )
    assert about_best_model({"full": full, "fixed": fixed}) == (
        "net1 has the highest score on target0: 40.0 % (fixed), net2 follows with 30.0 %."
    )
    assert about_best_model({"full": matrix("full", [[0.5, 0.7], [0.1, 0.2]])}) == (
        "net0 has the highest mean over 2 targets: 60.0 % (full), net1 follows with 15.0 %."
    )
    assert about_best_model({"full": matrix("full", [[0.1], [0.5], [0.5]])}) == (
        "No model has a higher score on target0 than net1 and net2: 50.0 % (full)."
    )


def test_methods_of_one_model_are_compared() -> None:
    found = rows_of({"full": matrix("full", [[0.5, 0.7]]), "fixed": matrix("fixed", [[0.2, 0.4]])})
    assert found == pytest.approx({("full", ""): 0.6, ("fixed", ""): 0.3})


def test_the_legend_names_the_targets_of_methods_that_ran_on_different_ones() -> None:
    full, boxes = matrix("full", [[0.5], [0.6]]), matrix("detection", [[0.1], [0.2]])
    panel = mean_panel({"full": full, "detection": replace(boxes, targets=("boxes",))})
    assert panel is not None
    assert "full on target0" in panel.svg and "detection on boxes" in panel.svg
    same = mean_panel({"full": full, "detection": boxes})
    assert same is not None and same.title == "Score on target0"
    assert "on target0" not in same.svg and "mean over targets" not in same.svg


def test_only_the_best_of_many_models_are_drawn() -> None:
    scores = [[row / 100] for row in range(MAX_MODELS + 5)]
    panel = mean_panel({"full": matrix("full", scores)})
    assert panel is not None and f"best {MAX_MODELS} of {MAX_MODELS + 5} models" in panel.detail
    assert panel.data.splitlines()[1] == f"net{MAX_MODELS + 4},full,{(MAX_MODELS + 4) / 100}"


def test_the_caption_states_the_order_if_it_is_not_evident() -> None:
    full, fixed = matrix("full", [[0.5, 0.7], [0.6, 0.8]]), matrix("fixed", [[0.9, 0.9], [0, 0]])
    panel = mean_panel({"full": full, "fixed": fixed})
    assert panel is not None and panel.detail == "2 targets, ordered by each model's best mean"
    assert [line.split(",")[0] for line in panel.data.splitlines()[1:3]] == ["net0", "net1"]
    of_one_method = mean_panel({"full": full})
    assert of_one_method is not None and of_one_method.detail == "full, 2 targets"


@pytest.mark.parametrize(("lowest", "is_drawn"), [(12.0, True), (60.0, False)])
def test_the_caption_names_the_line_of_chance_only_if_it_is_drawn(
    lowest: float, is_drawn: bool
) -> None:
    _, axes = plot.blank(3.5, 2.5)
    axes.plot([0, 1], [lowest, 65.0])
    caption = plot.chance_line(axes, 0.125)
    assert caption == ", chance 12.5 %" + " (dotted)" * is_drawn
    assert len(axes.lines) == 1 + is_drawn
    assert plot.chance_line(axes, None) == "" and len(axes.lines) == 1 + is_drawn


def test_one_model_of_one_method_has_no_figure_and_no_sentence() -> None:
    for matrices in ({}, {"full": matrix("full", [[0.5, 0.7]])}):
        assert mean_panel(matrices) is None
        assert about_best_model(matrices) == ""


def test_every_subset_of_a_long_legend_has_its_own_color_and_marker() -> None:
    places = [(index % NUM_COLORS, marker_place(index)) for index in range(NUM_COLORS**2)]
    assert len(set(places)) == NUM_COLORS**2
    assert [marker_place(index) for index in range(NUM_COLORS)] == list(range(NUM_COLORS))
    recipe = read("fewer_classes")
    subsets = [subset.name for subset in recipe.subsets]
    entries = _transfer_legend(recipe, subsets, recipe.methods)
    signs = [(entry.sign, entry.color) for entry in entries if entry.sign]
    assert len(signs) > NUM_COLORS and len(set(signs)) == len(signs)


def test_a_name_changes_side_if_it_would_be_cut_off() -> None:
    places = np.array([(2.0, 20.0), (150.0, 60.0), (298.0, 100.0)])
    offsets = place_names(places, [20, 20, 20], 300.0, 120.0)
    assert [is_left for _, is_left in offsets] == [False, False, True]


@pytest.mark.parametrize("seed", range(5))
def test_names_of_close_points_do_not_overlap(seed: int) -> None:
    places = np.random.default_rng(seed).uniform((40, 30), (260, 170), (14, 2))
    offsets = place_names(places, [14] * 14, 300.0, 200.0)
    boxes = []
    for (x, y), ((aside, up), is_left) in zip(places, offsets, strict=True):
        assert (aside < 0) == is_left
        left = x + aside - 50 * is_left  # 14 letters at font size 6.5 are about 50 points wide
        boxes.append((left, y + up - 3, left + 50, y + up + 3))
    overlapping = [
        pair
        for pair in combinations(boxes, 2)
        if max(pair[0][0], pair[1][0]) < min(pair[0][2], pair[1][2])
        and max(pair[0][1], pair[1][1]) < min(pair[0][3], pair[1][3])
    ]
    assert overlapping == []
    assert all(left >= 0 and right <= 300 for left, _, right, _ in boxes)


def test_a_mean_below_100_percent_is_not_shown_as_100() -> None:
    panel = mean_panel({"full": matrix("full", [[0.9996, 0.9996], [1.0, 1.0]])})
    assert panel is not None
    assert "net0, full: 99.9 %<" in panel.svg and "net1, full: 100.0 %<" in panel.svg
