"""Reports of degenerate results have no nan, and no sentence that the results do not support."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.recipe import Recipe
from harness.report.render.page import write
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics, scores

TARGETS = fakes.TARGETS[:3]
METHODS = ("fixed", "full")
NOT_A_NUMBER = re.compile(r"(?<![\w.-])[-−+±]? ?(nan|inf|None)(?![\w-])")


def text_of(page: str) -> str:
    """Visible text of a page, without scripts, styles and the recipe."""
    page = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def with_score(result: Result, value: float) -> Result:
    """Return a result with `value` as its numbers.

    For a transfer, these are the accuracies on val and test; for a score stage, all scores; for a
    loaded model, the ImageNet accuracy. Other results are returned unchanged.
    """
    if result.kind == "transfer":
        return replace_metrics(
            result, test=scores(value, 2000), val=scores(value, 500), grid=result.metrics["grid"]
        )
    if result.kind == "score":
        return replace_metrics(result, scores=dict.fromkeys(result.metrics["scores"], value))
    if result.kind == "adopt":
        return replace_metrics(result, imagenet_top1=value)
    return result


def one_model_ahead(results: list[Result]) -> list[Result]:
    """Keep all targets of the first model, and the first target of the others."""
    return [
        result
        for result in results
        if result.axes.get("target") in (None, TARGETS[0])
        or result.axes["model"] == results[0].axes["model"]
    ]


def without_newer_fields(result: Result) -> Result:
    newer = {"num_parameters", "chosen", "num_classes", "num_images", "imagenet_top1"}
    kept = {name: value for name, value in result.metrics.items() if name not in newer}
    return result.model_copy(update={"metrics": kept, "environment": {}})


CASES: dict[str, Callable[[list[Result]], list[Result]]] = {
    "all": lambda results: results,
    "equal": lambda results: [with_score(result, 0.5) for result in results],
    "zero": lambda results: [with_score(result, 0.0) for result in results],
    "perfect": lambda results: [with_score(result, 1.0) for result in results],
    "one model ahead": one_model_ahead,
    "one target": lambda results: [
        result for result in results if result.axes.get("target") in (None, TARGETS[0])
    ],
    "one model": lambda results: [
        result for result in results if result.axes["model"] == results[0].axes["model"]
    ],
    "older": lambda results: [without_newer_fields(result) for result in results],
    "transfers alone": lambda results: [result for result in results if result.kind == "transfer"],
    "scores alone": lambda results: [result for result in results if result.kind != "transfer"],
}


@pytest.mark.parametrize("case", CASES)
def test_degenerate_models_have_a_page_without_nan(tmp_path: Path, case: str) -> None:
    seeds = (0, 1)
    results = CASES[case](fakes.model_zoo(num_models=5, targets=TARGETS, seeds=seeds))
    page = write(
        fakes.recipe_for(TARGETS, METHODS, seeds=seeds), results, [], tmp_path, ("html", "md")
    )
    for text in (text_of(page.read_text()), (tmp_path / "report.md").read_text()):
        found = NOT_A_NUMBER.search(text)
        assert found is None, text[max(0, found.start() - 100) : found.end() + 50]


def constant(recipe: Recipe) -> list[Result]:
    """Make results of a recipe in which all transfers are equally accurate."""
    return [
        with_score(result, 0.5) if result.kind == "transfer" else result
        for result in make_results(recipe)
    ]


def test_equal_seeds_are_not_called_one_seed(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    page = text_of(write(recipe, constant(recipe), [], tmp_path, ("html",)).read_text())
    assert "equal seeds" in page and "one seed" not in page
