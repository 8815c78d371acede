"""Reports of a single model or transfer: nothing is repeated, and what is certain is left out."""

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from harness.config.recipe import Recipe
from harness.report.render.page import write
from harness.report.stats.intervals import wilson_interval
from harness.runner.result import Result
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics, scores
from tests.helpers.report_html import Page

VIEWS = ("common_unmasked", "common_masked", "own")


def single(**settings: Any) -> Recipe:
    few = {"subsets": ("all",), "ranking": None, "eps": (0.0,), "methods": (), "targets": ()}
    return make_recipe(**(few | settings))


def with_classes(results: list[Result], number: int, top1: float = 0.5) -> list[Result]:
    """Give all models the same `number` of classes, and equal accuracies in the three views."""
    same = scores(top1, 40)
    changed = {
        "pretrain": {"num_classes": number},
        "evaluate": {"num_common_classes": number, "clean": dict.fromkeys(VIEWS, same)},
        "transfer": {"num_classes": number, "test": {**same, "mean_per_class": same["top1"]}},
    }
    return [replace_metrics(result, **changed.get(result.kind, {})) for result in results]


def render(recipe: Recipe, results: list[Result], folder: Path, **others: Any) -> Page:
    return Page(write(recipe, results, [], folder, ("html", "md"), **others).read_text())


def accuracy_tables(page: Page) -> set[str]:
    return {name for name in page.tables if name.startswith("accuracy")}


def test_equal_views_are_one_table(tmp_path: Path) -> None:
    recipe = single()
    page = render(recipe, with_classes(make_results(recipe), 24), tmp_path)
    assert accuracy_tables(page) == {"accuracy-0-common_masked"}
    assert page.tables["accuracy-0-common_masked"][0][1].startswith("top-1 (top-5)")
    assert "masked" not in page.text and "on the source classes" in page.text


def test_views_that_differ_keep_their_tables(tmp_path: Path) -> None:
    recipe = single()
    results = with_classes(make_results(recipe), 24)
    (evaluated,) = (result for result in results if result.kind == "evaluate")
    views = {**evaluated.metrics["clean"], "common_masked": scores(0.6, 40)}
    results[results.index(evaluated)] = replace_metrics(evaluated, clean=views)
    assert len(accuracy_tables(render(recipe, results, tmp_path))) == 3


def test_masking_that_changes_nothing_has_no_table_of_its_own(tmp_path: Path) -> None:
    recipe = single()
    results = with_classes(make_results(recipe), 24)
    (evaluated,) = (result for result in results if result.kind == "evaluate")
    views = {**evaluated.metrics["clean"], "own": scores(0.4, 40)}
    results[results.index(evaluated)] = replace_metrics(evaluated, clean=views)
    page = render(recipe, results, tmp_path)
    assert accuracy_tables(page) == {"accuracy-0-common_masked", "accuracy-0-own"}
    assert "asked" not in page.text and "on the common classes" in page.text


@pytest.mark.parametrize(("number", "has_top5"), [(5, False), (6, True)])
def test_top_5_of_at_most_five_classes_is_left_out(
    tmp_path: Path, number: int, has_top5: bool
) -> None:
    recipe = single(targets=("clothing",), methods=("full",))
    page = render(recipe, with_classes(make_results(recipe), number), tmp_path)
    assert ("top-5" in page.text) == has_top5
    labels = [label.rstrip("↕ ") for label in page.tables["transfers"][0]]
    assert ("top-5" in labels) == has_top5 and "mean per class" not in labels


def test_the_mean_per_class_is_shown_if_a_target_is_scored_by_it(tmp_path: Path) -> None:
    recipe = single(targets=("grocery",), methods=("full",))
    page = render(recipe, with_classes(make_results(recipe), 24), tmp_path)
    assert any("mean per class" in label for label in page.tables["transfers"][0])


def test_one_run_of_each_of_two_methods_is_compared_once(tmp_path: Path) -> None:
    recipe = single(targets=("clothing",), methods=("fixed", "full"))
    results = with_classes(make_results(recipe), 24, 0.5)
    for index, result in enumerate(results):
        if result.axes.get("method") == "full":
            results[index] = replace_metrics(result, test=scores(0.75, 40))
    page = render(recipe, results, tmp_path)
    assert "Method full was 25.0 points better than fixed, in one run of each." in page.text
    assert "comparisons" not in page.tables and "figure" not in page.tags


def test_the_transfer_is_the_answer_of_a_recipe_with_a_target(tmp_path: Path) -> None:
    recipe = single(targets=("clothing",), methods=("full",))
    render(recipe, with_classes(make_results(recipe), 24), tmp_path)
    assert (tmp_path / "answer.txt").read_text().startswith("resnet10, transferred to clothing by")


def test_methods_at_chance_are_marked(tmp_path: Path) -> None:
    recipe = single(targets=("clothing",), methods=("fixed", "full"))
    results = with_classes(make_results(recipe), 24, 0.05)
    for index, result in enumerate(results):
        if result.axes.get("method") == "full":
            results[index] = replace_metrics(result, test=scores(0.1, 40))
    render(recipe, results, tmp_path)
    assert (tmp_path / "answer.txt").read_text() == (
        "Method full was 5.0 points better than fixed, in one run of each (not clearly above "
        "chance).\n"
    )


def test_a_recipe_without_methods_misses_no_transfer(tmp_path: Path) -> None:
    recipe = single(targets=("clothing",), methods=("full",))
    text = "No model has been transferred yet."
    assert text in render(recipe, [], tmp_path).text
    assert text not in render(recipe.model_copy(update={"methods": {}}), [], tmp_path).text


def test_a_page_without_a_question_has_its_name_once(tmp_path: Path) -> None:
    page = render(single(question="", name="mine"), [], tmp_path)
    opening = page.text.split("No model of this recipe")[0]
    assert opening.split() == ["mine", "mine"]  # the title of the window and that of the page


def test_the_uncertainty_of_a_single_accuracy_is_an_interval(tmp_path: Path) -> None:
    recipe = single(targets=("clothing",), methods=("full",))
    (run,) = (result for result in make_results(recipe) if result.kind == "transfer")
    page = render(recipe, [replace_metrics(run, test=scores(0.9, 10))], tmp_path)
    assert "choice of 10 test images alone gives a 95 % Wilson interval of 59.6 to 98.2 %" in (
        page.text
    )


@pytest.mark.parametrize(("correct", "total"), [(9, 10), (0, 20), (20, 20), (1, 1)])
def test_wilson_intervals_are_those_of_scipy(correct: int, total: int) -> None:
    expected = binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson_interval(correct / total, total) == pytest.approx(tuple(expected), abs=1e-9)
