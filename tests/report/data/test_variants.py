"""Variants of pretraining are settings, not repeats; models outside the recipe are not missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config.recipe import Recipe
from harness.report.data.collection import Collection
from harness.report.data.rows import accuracy_rows, transfer_rows
from harness.report.render.page import write
from harness.report.stats.comparisons import comparisons
from harness.report.stats.effects import effects
from harness.runner.result import Result
from tests.helpers.report_fakes import make_recipe, make_results
from tests.helpers.report_html import Page

VARIANTS = {"equal_epochs": {}, "equal_steps": {"length": "equal_steps"}}


def table_of(
    recipe: Recipe, results: Sequence[Result], out: Path, view: str
) -> tuple[list[list[str]], str]:
    page = Page(write(recipe, results, [], out, ("html",)).read_text())
    return page.tables[f"accuracy-0-{view}"], page.text


def top1(results: Sequence[Result], **axes: Any) -> float:
    (found,) = (
        result.metrics["clean"]["common_masked"]["top1"]
        for result in results
        if result.kind == "evaluate" and axes.items() <= result.axes.items()
    )
    return float(found)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_each_variant_has_a_row_and_only_seeds_have_a_spread(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    recipe = make_recipe(eps=(0.0,), seeds=seeds, variants=VARIANTS)
    results = make_results(recipe)
    table, _ = table_of(recipe, results, tmp_path, "common_masked")
    assert [row[:2] for row in table[1:]] == [
        ["all 24", "equal_epochs same as equal_steps"],
        ["minus3 21", "equal_epochs"],
        ["minus3 21", "equal_steps"],
        ["minus6 18", "equal_epochs"],
        ["minus6 18", "equal_steps"],
    ]
    for row in table[1:]:
        axes = {"subset": row[0].split()[0], "variant": row[1].split()[0]}
        mean = sum(top1(results, seed=seed, **axes) for seed in seeds) / len(seeds)
        assert row[2].startswith(f"{100 * mean:.1f} (")
        assert ("sd" in row[2]) == (len(seeds) > 1)


def test_a_recipe_with_one_way_of_training_names_no_variant(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,))
    table, text = table_of(recipe, make_results(recipe), tmp_path, "common_masked")
    assert table[0] == ["training classes", "top-1 (top-5)"]  # no attacks either
    assert "Adversarial" not in text


def test_models_without_the_common_classes_are_not_marked_as_not_run(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0, 0.5))
    results = []
    for result in make_results(recipe):
        if result.kind == "evaluate" and result.axes["subset"] == "minus3":
            continue
        if result.kind == "evaluate" and result.axes["subset"] == "minus6":
            own = {
                attack: views and {"own": views["own"]}
                for attack, views in result.metrics.items()
                if attack in ("clean", "adversarial")
            }
            result = result.model_copy(update={"metrics": {**result.metrics, **own}})
        results.append(result)
    common, text = table_of(recipe, results, tmp_path, "common_unmasked")
    assert [row[0] for row in common[2:]] == ["all 24", "minus3"]
    assert common[3][1:] == ["not run"] * 4
    assert "Without minus6: not trained on all of these classes." in text
    own, _ = table_of(recipe, results, tmp_path, "own")
    assert [row[0] for row in own[2:]] == ["all 24", "minus3", "minus6 18"]
    assert "not run" not in own[4]


def test_excluded_models_are_not_marked_as_not_run(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0, 0.5), exclude=[{"subset": "minus3", "eps": 0.5}])
    table, text = table_of(
        recipe,
        [
            result
            for result in make_results(recipe)
            if result.axes.get("subset") != "all" or result.kind != "evaluate"
        ],
        tmp_path,
        "common_masked",
    )
    assert table[2][1:] == ["not run"] * 4
    assert table[3][2:] == ["–"] * 3 and table[3][1] != "–"
    assert "–: not attacked or not part of the recipe." in text


def test_differences_pair_equal_variants_and_shared_models_count_for_each() -> None:
    recipe = make_recipe(eps=(0.0,), seeds=(0, 1), variants=VARIANTS)
    results = make_results(recipe)
    found = Collection(recipe, results)
    accuracy, transfer = accuracy_rows(found), transfer_rows(found)
    (effect,) = (
        effect
        for effect in effects(accuracy, transfer)
        if (effect.axis, effect.setting, effect.measure)
        == ("subset", "minus6", "clean common_masked")
    )
    by_seed = [
        sum(top1(results, subset="minus6", variant=variant, seed=seed) for variant in VARIANTS) / 2
        - top1(results, subset="all", seed=seed)
        for seed in (0, 1)
    ]
    assert effect.over["variant"] == tuple(VARIANTS)
    assert effect.difference.num_seeds == 2
    assert effect.difference.mean == pytest.approx(sum(by_seed) / 2)
    (compared,) = (
        row
        for row in comparisons(transfer)
        if (row.axis, row.setting, row.method) == ("subset", "minus6", "full")
    )
    assert compared.num_pairs == 2 * 2 * len(VARIANTS)  # targets, seeds
    of_variants = [row for row in comparisons(transfer) if row.axis == "variant"]
    # Both variants of `all` are one model, so they are not compared.
    assert {row.num_pairs for row in of_variants} == {2 * 2 * 2}


def test_budgets_are_compared_within_each_variant() -> None:
    """Fewer classes gain 0.1 in one variant and lose 0.04 in the other: over both, +0.03."""
    recipe = make_recipe(eps=(0.0,), variants=VARIANTS, targets=("clothing",), methods=("full",))
    rows = []
    for row in transfer_rows(Collection(recipe, make_results(recipe))):
        gain = 0.1 if row.variant == "equal_epochs" else -0.04
        sizes = {
            "all": (24, 4000, 0.5),
            "minus3": (24, 1000, 0.4),
            "minus6": (18, 1000, 0.4 + gain),
        }
        classes, images, score = sizes[row.subset]
        changed = {
            "num_classes": classes,
            "num_source_images": images,
            "top1": score,
            "metric": "top1",
        }
        rows.append(type(row)(**{**row.__dict__, **changed}))
    (effect,) = (effect for effect in effects([], rows) if effect.axis == "budget")
    assert effect.difference.mean == pytest.approx(0.03)
    assert effect.over["variant"] == tuple(VARIANTS)
