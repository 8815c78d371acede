"""The table of budgets: fewer classes against fewer images per class at equal numbers of images.

Published numbers are those of Huh et al. 2016.
"""

import pytest

from harness.report.render.report import collect
from harness.report.render.tables.table import to_markdown
from harness.report.stats.budgets import budget_scores
from tests.helpers import study_fakes as fakes
from tests.helpers.report_fakes import make_recipe

SIZES = (500_000, 250_000, 125_000)
SCORES = {"classes": (0.70, 0.60, 0.50), "examples": (0.68, 0.62, 0.40)}


def study(kinds=("classes", "examples")):
    """Make a recipe and results of two seeds, whose scores are 0.02 above and below SCORES."""
    recipe = make_recipe(
        eps=(0.0,),
        seeds=(0, 1),
        ranking=None,
        targets=("sun397", "pets"),
        methods=("full",),
        subsets=(
            "all",
            *(
                {"name": f"{size}-{by}", "budget": {"images": size, "by": by}}
                for size in SIZES
                for by in kinds
            ),
        ),
    )
    results = []
    for by in kinds:
        for size, score in zip(SIZES, SCORES[by], strict=True):
            for seed, offset in ((0, 0.02), (1, -0.02)):
                axes = {"subset": f"{size}-{by}", "arch": "resnet18", "eps": 0.0, "seed": seed}
                metrics = {"num_classes": 1000, "num_train_images": size}
                model = fakes.stage("pretrain", axes, metrics)
                results.append(model)
                for target in ("sun397", "pets"):
                    shown = {**axes, "target": target, "method": "full"}
                    results.append(fakes.transfer(model, shown, score + offset))
    return recipe, results


def test_measured_means_are_next_to_the_published_numbers():
    recipe, results = study()
    rows = budget_scores(recipe, fakes.rows_of(results, recipe)[0])
    found = {(row.target, row.by, row.num_images): row for row in rows}
    assert len(found) == len(rows) == 12
    for by, scores in SCORES.items():
        for size, score in zip(SIZES, scores, strict=True):
            assert found["sun397", by, size].score == pytest.approx(score)
            assert found["sun397", by, size].num_seeds == 2
            assert found["pets", by, size].published is None
    assert [found["sun397", "classes", size].published for size in SIZES] == [50.6, 45.7, 42.2]
    assert [found["sun397", "examples", size].published for size in SIZES] == [49.7, 46.7, 42.3]


def test_the_report_has_two_lines_per_target():
    recipe, results = study()
    (section,) = [
        part for part in collect(recipe, results, [], {}, {}).sections if part.name == "budgets"
    ]
    lines = to_markdown(section.tables[0]).splitlines()
    (line,) = [line for line in lines if "sun397" in line and "fewer classes" in line]
    assert line.endswith(
        "| 70.0 (published 50.6) | 60.0 (published 45.7) | 50.0 (published 42.2) |"
    )
    (line,) = [line for line in lines if "pets" in line and "all classes" in line]
    assert line.endswith("| 68.0 | 62.0 | 40.0 |")


def test_one_kind_of_budget_has_no_table():
    recipe, results = study(("examples",))
    assert not budget_scores(recipe, fakes.rows_of(results, recipe)[0])
    sections = collect(recipe, results, [], {}, {}).sections
    assert not [part for part in sections if part.name == "budgets" and part.tables]


@pytest.mark.parametrize(
    ("target", "published"),
    [
        ("voc2007_detection", {"classes": [57.1, 54.8, 50.6], "examples": [57.0, 52.5, 49.8]}),
        ("voc2007", {"classes": [None] * 3, "examples": [None] * 3}),
    ],
)
def test_published_pascal_numbers_are_shown_for_detection_only(target, published):
    recipe, results = study()
    results = [
        result.model_copy(update={"axes": {**result.axes, "target": target}})
        if result.axes.get("target") == "sun397"
        else result
        for result in results
    ]
    rows = budget_scores(recipe, fakes.rows_of(results, recipe)[0])
    found = {(row.by, row.num_images): row.published for row in rows if row.target == target}
    for by, values in published.items():
        assert [found[by, size] for size in SIZES] == values
