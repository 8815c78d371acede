"""Warnings about data in the report."""

from dataclasses import replace
from pathlib import Path

from harness.report.data.run_rows import BetonRow
from harness.report.render.page import write
from harness.report.text.caveats import MAX_WARNINGS, about_empty_classes
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics
from tests.helpers.report_html import Page

ROW = BetonRow("photos", "all", "train", 5, 40, 1, "", "")


def test_classes_without_images_are_named_once_per_dataset_and_subset():
    lacking = [
        replace(ROW, split=split, classes_without_images=("odd",)) for split in ("val", "test")
    ]
    other = replace(ROW, subset="few", split="val", classes_without_images=("hat", "odd"))
    assert about_empty_classes([ROW, *lacking, other]) == [
        "photos: val and test have no image of 1 of 5 classes: odd. Accuracies on these splits do "
        "not cover it.",
        "photos, subset few: val has no image of 2 of 5 classes: hat, odd. Accuracies on this "
        "split do not cover them.",
    ]
    assert about_empty_classes([ROW]) == []


def test_few_of_many_datasets_with_classes_without_images_are_named():
    rows = [
        replace(ROW, dataset=f"d{index}", split="val", classes_without_images=("odd",))
        for index in range(MAX_WARNINGS + 2)
    ]
    *named, rest = about_empty_classes(rows)
    assert [text.split(":")[0] for text in named] == [row.dataset for row in rows[:MAX_WARNINGS]]
    assert rest == "Further datasets or subsets with such classes: 2."


def test_the_page_shows_the_warning_and_the_number_of_classes(tmp_path: Path):
    recipe = make_recipe(targets=("grocery",))
    results = make_results(recipe)
    for index, result in enumerate(results):
        if result.kind == "write" and result.axes["dataset"] == "grocery":
            splits = dict(result.metrics["splits"])
            splits["test"] = {**splits["test"], "classes_without_images": ["grocery_1"]}
            results[index] = replace_metrics(result, splits=splits)
    page = Page(write(recipe, results, [], tmp_path, ("html", "md", "csv")).read_text())
    text = "grocery: test has no image of 1 of 81 classes: grocery_1."
    assert text in page.text
    shown = {(row[0], row[2]): row[3] for row in page.tables["betons"]}
    assert shown["grocery", "test"].split() == ["81", "1", "without", "images"]
    assert shown["grocery", "train"].split() == ["81"]
    assert text.replace("_", "\\_") in (tmp_path / "report.md").read_text()
    assert "grocery_1" in (tmp_path / "betons.csv").read_text()
    _, warning = (tmp_path / "answer.txt").read_text().splitlines()  # `harness run` prints both
    assert warning.startswith(text)
