"""Transferability scores: their table and induction. Also the axes of the transfer figure.

Induction: do features trained on coarse classes separate fine ones (Huh et al. 2016)?
"""

import csv
import io
import statistics
from pathlib import Path

import pytest

from harness.config.recipe import Recipe
from harness.report.data.collection import Collection
from harness.report.data.induction import inductions
from harness.report.data.rows import score_rows, transfer_rows
from harness.report.render.figures.sizes import induction_panels
from harness.report.render.figures.transfer import subset_panels
from harness.report.render.page import write
from harness.report.render.sections import scores_section, transfer_section
from harness.report.stats.analysis import analyze
from harness.report.text.findings import about_induction
from harness.runner.result import Result
from tests.helpers import study_fakes
from tests.helpers.report_fakes import make_recipe, make_results
from tests.helpers.report_html import Page

KNN = {"all": 0.40, "coarse127": 0.35, "coarse9": 0.10, "fewer": 0.38, "coarse918": 0.39}


def sentence(recipe: Recipe, results: list[Result]) -> str:
    return about_induction(inductions(recipe, score_rows(Collection(recipe, results))))


def numbers(data: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data)))


def test_the_table_has_every_score_of_every_model(tmp_path: Path) -> None:
    recipe, results = study_fakes.induced(lambda name, seed: KNN[name] + 0.01 * seed, seeds=(0, 1))
    path = write(recipe, results, [], tmp_path, ("html", "csv"))
    table = Page(path.read_text()).tables["scores"]
    assert table[:2] == [["", "pets", "fine"], ["training classes", "knn", "leep", "knn"]]
    spread = 100 * statistics.stdev((0.0, 0.01))
    assert table[2] == [
        "all 1,000",
        f"40.5 sd {spread:.1f}",
        "−1.000 sd 0.000",
        f"40.5 sd {spread:.1f}",
    ]
    assert table[4] == [
        "coarse9 9",
        f"10.5 sd {spread:.1f}",
        "−0.009 sd 0.000",
        f"10.5 sd {spread:.1f}",
    ]
    text = path.read_text()
    text = text[text.index('<table id="scores"') :]
    assert text[: text.index("</table>")].count('class="value best"') == 3
    assert "knn_k5" not in text and "knn_k5" in (tmp_path / "scores.csv").read_text()


def test_a_long_table_is_folded_and_missing_scores_are_marked() -> None:
    results = [
        result
        for result in study_fakes.model_zoo(num_models=13, targets=("pets", "cars"))
        if result.name != "score/torchvision/net3/cars"
    ]
    recipe = study_fakes.recipe_for(("pets", "cars"), ("full",))
    section = scores_section(recipe, score_rows(Collection(recipe, results)), [])
    assert not section.tables and section.folds[0].title == "Each model's scores (13)"
    (table,) = section.folds[0].tables
    absent = [row[0].text for row in table.rows if "–" in [cell.text for cell in row]]
    assert absent == ["torchvision/net3"] and "–: not computed." in table.note
    assert not scores_section(recipe, [], []).all_tables


def test_accuracies_near_chance_are_marked() -> None:
    recipe, results = study_fakes.induced(lambda name, seed: 0.011 if name == "all" else 0.3)
    (table,) = scores_section(recipe, score_rows(Collection(recipe, results)), []).tables
    assert [row[1].text for row in table.rows] == [
        "1.1°",
        *["30.0"] * 4,
    ]
    assert "°: not clearly" in table.note


def test_induction_is_drawn_over_subsets_with_the_same_images_only() -> None:
    recipe, results = study_fakes.induced(lambda name, seed: KNN[name] + 0.01 * seed, seeds=(0, 1))
    (panel,) = induction_panels(inductions(recipe, score_rows(Collection(recipe, results))))
    assert panel.title == "Induction: fine"
    assert [
        (line["subset"], line["num_classes"], float(line["mean"])) for line in numbers(panel.data)
    ] == [
        ("coarse9", "9", pytest.approx(0.105)),
        ("coarse127", "127", pytest.approx(0.355)),
        ("coarse918", "918", pytest.approx(0.395)),
        ("all", "1000", pytest.approx(0.405)),
    ]
    assert {line["num_seeds"] for line in numbers(panel.data)} == {"2"}
    for label in ("9", "127", "1k"):
        assert f">{label}</text>" in panel.svg
    assert ">918</text>" not in panel.svg  # its label would overlap 1k


def test_induction_uses_only_targets_without_training() -> None:
    recipe, results = study_fakes.induced(lambda name, seed: KNN[name], trained=True)
    assert inductions(recipe, score_rows(Collection(recipe, results))) == []


def test_single_runs_and_small_samples_are_named_as_limits() -> None:
    text = sentence(*study_fakes.induced(lambda name, seed: KNN[name]))
    assert text == (
        "On fine, the nearest neighbor has the same class for 10.0 % of 2,000 images, "
        "with features trained on 9 classes (coarse9). "
        "With 1,000 classes (all), the fraction is 40.0 %. "
        "The difference is −30.0 points. These are single runs."
    )
    near = {**KNN, "coarse9": 0.39}
    # 196 * sqrt(2 * 0.4 * 0.6 / 2000) = 3.04 points
    assert (
        "−1.0 points. That is within the sampling error of single runs on these images "
        "(± 3.0 points)." in sentence(*study_fakes.induced(lambda name, seed: near[name]))
    )
    assert "−1.0 points. These are single runs." in sentence(
        *study_fakes.induced(lambda name, seed: near[name], num_images=50_000)
    )
    assert "Neither is clearly above chance (1.0 %)." in sentence(
        *study_fakes.induced(lambda name, seed: 0.012)
    )


@pytest.mark.parametrize(
    ("wobble", "expected"), [(0.001, "−30.0 ± 0.2 points."), (0.2, "points (not clear).")]
)
def test_the_interval_is_over_seeds(wobble: float, expected: str) -> None:
    text = sentence(
        *study_fakes.induced(
            lambda name, seed: KNN[name] + wobble * (seed - 1) * (name == "all"), seeds=(0, 1, 2)
        )
    )
    assert text.endswith(expected) and "single runs" not in text


def test_with_one_eps_the_axis_has_the_subsets() -> None:
    recipe = make_recipe(eps=(0.0,), seeds=(0, 1))
    rows = transfer_rows(Collection(recipe, make_results(recipe)))
    grocery, clothing = subset_panels(recipe, rows)
    assert (grocery.title, clothing.title) == ("grocery", "clothing")
    found = {
        (line["subset"], line["method"]): float(line["mean"]) for line in numbers(grocery.data)
    }
    assert found == {
        (subset, method): pytest.approx(
            statistics.mean(
                row.score
                for row in rows
                if (row.subset, row.method, row.target) == (subset, method, "grocery")
            )
        )
        for subset in ("all", "minus3", "minus6")
        for method in ("fixed", "full")
    }
    assert [
        label for label in ("all", "minus3", "minus6") if f">{label}</text>" in grocery.svg
    ] == ["all", "minus3", "minus6"]
    assert "rotate(-90)" not in grocery.svg


def test_with_several_eps_the_axis_has_eps() -> None:
    recipe = make_recipe(eps=(0.0, 0.5))
    found = Collection(recipe, make_results(recipe))
    rows = transfer_rows(found)
    section = transfer_section(recipe, rows, analyze([], rows, [], {}))
    assert section.panels[0].data.startswith("subset,method,eps,")
    recipe = make_recipe(eps=(0.0,))
    rows = transfer_rows(Collection(recipe, make_results(recipe)))
    section = transfer_section(recipe, rows, analyze([], rows, [], {}))
    assert section.panels[0].data.startswith("subset,method,variant,")
    assert [entry.text for entry in section.legend] == ["fixed", "full"]


def test_many_names_are_rotated_and_long_ones_numbered() -> None:
    def panel_of(prefix: str, count: int) -> str:
        names = [f"{prefix}{index}" for index in range(count)]
        recipe = make_recipe(
            eps=(0.0,),
            targets=("clothing",),
            ranking=None,
            subsets=tuple(
                {"name": name, "per_class": 5 + index} for index, name in enumerate(names)
            ),
        )
        rows = [
            row
            for row in transfer_rows(
                Collection(make_recipe(eps=(0.0,)), make_results(make_recipe(eps=(0.0,))))
            )
            if row.subset == "all" and row.target == "clothing"
        ]
        rows = [type(row)(**{**row.__dict__, "subset": name}) for row in rows for name in names]
        return subset_panels(recipe, rows)[0].svg

    many = panel_of("per-class-", 12)
    assert many.count("rotate(-90)") == 12 and ">per-class-11</text>" in many
    long = panel_of("without-the-classes-of-the-target-", 3)
    assert ">1</text>" in long and "without-the-classes-of-the-target-0</text>" not in long
