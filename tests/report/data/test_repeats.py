"""Models from equal `.beton` files and equal training count once; the report names the repeats."""

from pathlib import Path

import pytest

from harness.config.recipe import Recipe
from harness.report.data.collection import Collection
from harness.report.data.rows import accuracy_rows, transfer_rows
from harness.report.render.page import write
from harness.report.stats.effects import Effect, effects
from harness.runner.result import Result
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics
from tests.helpers.report_html import Page

VARIANTS = {"equal_epochs": {}, "equal_steps": {"length": "equal_steps"}}


def with_equal_files(results: list[Result], subset: str, other: str) -> list[Result]:
    """Give the `.beton` files of `other` the digests and classes of those of `subset`."""
    metrics = {
        result.axes["subset"]: result.metrics for result in results if result.kind == "write"
    }
    return [
        replace_metrics(result, **metrics[subset])
        if result.kind == "write" and result.axes["subset"] == other
        else result
        for result in results
    ]


def with_equal_steps(results: list[Result], subset: str) -> list[Result]:
    """Give both variants of a subset the same number of steps."""
    return [
        replace_metrics(result, num_steps=500)
        if result.kind == "pretrain" and result.axes["subset"] == subset
        else result
        for result in results
    ]


def effects_of(recipe: Recipe, results: list[Result]) -> list[Effect]:
    found = Collection(recipe, results)
    return effects(accuracy_rows(found), transfer_rows(found))


def test_a_subset_with_the_images_of_another_counts_once(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), seeds=(0, 1))
    results = with_equal_files(make_results(recipe), "minus3", "minus6")
    found = Collection(recipe, results)
    assert {row.subset for row in accuracy_rows(found)} == {"all", "minus3"}
    assert {row.subset for row in transfer_rows(found)} == {"all", "minus3"}
    assert {effect.setting for effect in effects_of(recipe, results)} == {"minus3"}
    page = Page(write(recipe, results, [], tmp_path, ("html",)).read_text())
    assert "Subsets with equal images and labels: minus6 is minus3." in page.text
    assert "not run" not in page.text


def test_equal_numbers_of_steps_add_no_difference_of_zero(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), variants=VARIANTS, targets=("grocery",), methods=("full",))
    results = with_equal_steps(make_results(recipe), "minus3")
    (effect,) = (
        effect
        for effect in effects_of(recipe, results)
        if (effect.axis, effect.measure) == ("variant", "transfer full")
    )
    score = {
        result.axes["variant"]: result.metrics["test"]["mean_per_class"]
        for result in results
        if result.kind == "transfer" and result.axes["subset"] == "minus6"
    }
    expected = score["equal_steps"] - score["equal_epochs"]
    assert effect.difference.mean == pytest.approx(expected)
    page = Page(write(recipe, results, [], tmp_path, ("html",)).read_text())
    assert "equal_steps is equal_epochs for minus3" in page.text
    named = [row[1] for row in page.tables["accuracy-0-common_masked"][1:]]
    assert named.count("equal_epochs same as equal_steps") == 2  # for `all` and for minus3
    assert "not run" not in page.text


@pytest.mark.parametrize("changed", ["seed", "settings", "steps", "images"])
def test_models_that_differ_in_one_respect_are_two_models(changed: str) -> None:
    recipe = make_recipe(eps=(0.0,), seeds=(0, 1) if changed == "seed" else (0,))
    results = make_results(recipe)
    if changed != "images":
        results = with_equal_files(results, "minus3", "minus6")
    if changed in ("settings", "steps"):
        results = [
            result.model_copy(
                update={"config": {**result.config, "arch": "resnet18"}}
                if changed == "settings"
                else {"metrics": {**result.metrics, "num_steps": 501}}
            )
            if result.kind == "pretrain" and result.axes["subset"] == "minus6"
            else result
            for result in results
        ]
    repeats = Collection(recipe, results).repeated_models
    pairs = {
        (one.first.axes["subset"], one.result.axes["subset"], one.result.axes["seed"])
        for one in repeats
        if one.first.axes["seed"] == one.result.axes["seed"]
    }
    both_seeds = {("minus3", "minus6", 0), ("minus3", "minus6", 1)}
    assert pairs == (both_seeds if changed == "seed" else set())
    assert len(repeats) == len(pairs)


def test_models_with_unknown_numbers_of_steps_are_not_called_equal() -> None:
    recipe = make_recipe(eps=(0.0,))
    results = with_equal_files(make_results(recipe), "minus3", "minus6")
    without = [
        replace_metrics(result, num_steps=None) if result.kind == "pretrain" else result
        for result in results
    ]
    assert Collection(recipe, results).repeated_models
    assert not Collection(recipe, without).repeated_models
