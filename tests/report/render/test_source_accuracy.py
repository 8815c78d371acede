"""Measured accuracies of loaded models replace published ones, are marked, and are compared."""

import csv
from pathlib import Path

import pytest

from harness.report.data.collection import Collection
from harness.report.data.rows import accuracy_rows, transfer_rows
from harness.report.render import sections
from harness.report.render.page import write
from harness.report.stats.analysis import analyze
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes
from tests.helpers.report_fakes import scores

MEASURED = {"torchvision/net0": 0.675, "torchvision/net1": 0.5, "torchvision/net2": None}


def zoo() -> list[Result]:
    """Eight models. Three were measured: net0 is half a point off, net1 far off, net2 failed."""
    results = fakes.model_zoo()
    for model in [result for result in results if result.kind == "adopt"]:
        if (name := model.axes["model"]) in MEASURED:
            top1 = MEASURED[name]
            common = {"num_common_classes": 0, "adversarial": None, "coarse": {}}
            metrics = (
                {"clean": {"own": scores(top1, 50_000)}, "resolution": 224, "eval_crop": 0.875}
                if top1
                else {"clean": {}, "not_measured": "the model has no classifier"}
            )
            results.append(fakes.stage("evaluate", model.axes, common | metrics, {"model": model}))
    return results


def test_the_published_accuracy_is_used_only_without_a_measured_one() -> None:
    rows = transfer_rows(Collection(fakes.recipe_for(fakes.TARGETS, ("fixed", "full")), zoo()))
    known = {row.model: row.source_accuracy for row in rows}
    assert known["torchvision/net0"] == 0.675 and known["torchvision/net1"] == 0.5
    published = {
        result.axes["model"]: result.metrics["imagenet_top1"]
        for result in fakes.model_zoo()
        if result.kind == "adopt"
    }
    others = published.keys() - {"torchvision/net0", "torchvision/net1"}
    assert len(others) == 6 and all(known[name] == published[name] for name in others)


def test_evaluations_of_loaded_models_are_not_in_the_accuracy_rows() -> None:
    collection = Collection(fakes.recipe_for(fakes.TARGETS, ("fixed", "full")), zoo())
    assert accuracy_rows(collection) == [] and len(collection.of("evaluate")) == 3


def test_the_report_marks_measured_accuracies_and_names_large_differences(tmp_path: Path) -> None:
    recipe = fakes.recipe_for(fakes.TARGETS, ("fixed", "full"))
    collection = Collection(recipe, zoo())
    analysis = analyze([], transfer_rows(collection), [], {})
    section = sections.models_section(recipe, analysis, collection.source_accuracies())
    [sentence] = [text for text in section.sentences if "published" in text]
    assert sentence == (
        "Measured and published source accuracy differ by more than 1 point for 1 of 2 loaded "
        "models that have both: torchvision/net1 (50.0 %, published 70.1 %)."
    )
    tables = {table.name: table for table in section.all_tables}
    standings = tables["standings"]
    place = [column.label for column in standings.columns].index("source top-1")
    marked = {row[0].text: row[place].below for row in standings.rows}
    assert {name for name, below in marked.items() if below == "measured"} == {
        "torchvision/net0",
        "torchvision/net1",
    }
    assert "measured: on the source's val images" in standings.columns[place].hint
    table = tables["source-accuracy"]
    lines = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert lines == {
        "torchvision/net0": ["68.0", "67.5", "−0.5", "50,000", "224", "–"],
        "torchvision/net1": ["70.1", "50.0", "−20.1", "50,000", "224", "–"],
        "torchvision/net2": ["72.3", "–", "–", "–", "–", "the model has no classifier"],
    }
    write(recipe, zoo(), [], tmp_path)
    rows = list(csv.DictReader((tmp_path / "source_accuracy.csv").open()))
    assert [float(row["measured"]) for row in rows[:2]] == [0.675, 0.5]
    assert rows[2]["measured"] == ""


@pytest.mark.parametrize("with_measured", [True, False])
def test_only_reports_with_measured_models_explain_the_mark(with_measured: bool) -> None:
    recipe = fakes.recipe_for(fakes.TARGETS, ("full",))
    collection = Collection(recipe, zoo() if with_measured else fakes.model_zoo())
    analysis = analyze([], transfer_rows(collection), [], {})
    section = sections.models_section(recipe, analysis, collection.source_accuracies())
    names = {table.name for table in section.all_tables}
    hints = " ".join(column.hint for table in section.all_tables for column in table.columns)
    assert ("source-accuracy" in names) == with_measured == ("here" in hints)
