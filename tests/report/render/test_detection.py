"""Detection: the report shows mAP at 11 and at all recalls, no top-1. Also legends of figures."""

import csv
from dataclasses import replace
from pathlib import Path

from harness.report.data.collection import Collection
from harness.report.data.grid_rows import GridRows
from harness.report.data.rows import transfer_rows
from harness.report.render.page import write
from harness.report.render.sections import (
    source_sizes_section,
    target_sizes_section,
    transfer_section,
)
from harness.report.render.tables.transfer import transfer_table
from harness.report.stats.analysis import analyze
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics


def results_and_recipe():
    recipe = make_recipe(targets=("grocery", "boxes"), eps=(0.0, 0.5))
    results = []
    for number, result in enumerate(make_results(recipe)):
        if result.kind == "transfer" and result.axes["target"] == "boxes":
            scores = {
                "map50_11": 0.5 + 0.001 * number,
                "map50": 0.51 + 0.001 * number,
                "num_images": 4952,
                "num_objects": 12032,
                "num_detections": 90000,
            }
            grid = [{"lr": 0.1, "val": scores}, {"lr": 0.01, "val": None}]
            result = replace_metrics(
                result, metric="map50_11", test=scores, val=scores, grid=grid, num_classes=20
            )
        results.append(result)
    return results, recipe


def test_tables_show_both_map_values_and_no_top1():
    results, recipe = results_and_recipe()
    rows = transfer_rows(Collection(recipe, results))
    table = transfer_table(recipe, rows)
    labels = [heading.label for heading in table.columns]
    eleven, area, top1 = map(labels.index, ("11-point mAP, boxes", "mAP, boxes", "top-1"))
    for row, line in zip(list(rows), table.rows, strict=True):
        if row.target == "boxes":
            assert row.score == row.map50_11 and row.num_answers is None
            assert line[eleven].text == f"{100 * row.score:.1f}" and line[eleven].own
            assert line[area].text == f"{100 * row.map50:.1f}" and not line[area].own
            assert line[top1].text == "–"
        else:
            assert line[eleven].text == line[area].text == "–" and line[top1].text != "–"
    assert "difficult objects are ignored" in table.note


def test_a_table_of_detections_alone_has_no_accuracies():
    results, recipe = results_and_recipe()
    rows = [row for row in transfer_rows(Collection(recipe, results)) if row.target == "boxes"]
    labels = [heading.label for heading in transfer_table(recipe, rows).columns]
    assert "mAP, boxes" in labels
    assert {"top-1", "top-5", "mean per class"}.isdisjoint(labels)


def test_the_page_and_the_csv_have_both_map_values(tmp_path: Path):
    results, recipe = results_and_recipe()
    write(recipe, results, [], tmp_path, ("csv", "html", "md"))
    with (tmp_path / "transfer.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        assert bool(line["map50_11"]) == (line["target"] == "boxes") != bool(line["top1"])
    grid = GridRows(Collection(recipe, results))
    values = [row.val_map50_11 for row in grid if row.target == "boxes"]
    assert None in values and max(value for value in values if value is not None) > 0.5
    assert "11-point mAP, boxes" in (tmp_path / "index.html").read_text()


def legend(recipe, results):
    rows = transfer_rows(Collection(recipe, results))
    section = transfer_section(recipe, rows, analyze([], rows, [], {}))
    assert section.panels
    return [entry.text for entry in section.legend]


def without(results, **axes):
    """Return the results without the transfers that have all of the given axes."""
    return [
        result
        for result in results
        if result.kind != "transfer" or not axes.items() <= result.axes.items()
    ]


def test_legends_name_a_method_only_with_variants_in_which_it_ran():
    variants = {"equal_epochs": {}, "equal_steps": {"length": "equal_steps"}}
    recipe = make_recipe(eps=(0.0,), variants=variants)
    results = without(make_results(recipe), method="full", variant="equal_steps")
    every = ["fixed, equal_epochs", "full, equal_epochs", "fixed, equal_steps"]
    assert legend(recipe, results) == every


def test_legends_over_eps_name_subsets_and_methods_that_ran():
    recipe = make_recipe(eps=(0.0, 0.5))
    results = make_results(recipe)
    assert legend(recipe, results) == ["all", "minus3", "minus6", "fixed", "full"]
    results = without(without(results, method="full"), subset="minus3")
    assert legend(recipe, results) == ["all", "minus6", "fixed"]


def sized(recipe, *, per_class):
    """Return rows of `full` for each number of images per class, and rows of `fixed` with all images."""
    rows = [row for row in transfer_rows(Collection(recipe, make_results(recipe))) if row.eps == 0]
    fixed = [row for row in rows if row.method == "fixed"]
    full = [row for row in rows if row.method == "full"]
    return fixed + [replace(row, per_class=number) for row in full for number in per_class]


def test_legends_over_sizes_name_methods_with_a_curve_and_keep_their_colors():
    recipe = make_recipe(eps=(0.0,), targets=("grocery",), subsets=("all",), ranking=None)
    section = target_sizes_section(sized(recipe, per_class=(5, 50)))
    assert [entry.text for entry in section.legend] == ["full"] and len(section.panels) == 1
    (color,) = (entry.color for entry in section.legend)
    assert f"--{color}" in section.panels[0].svg


def test_colors_over_source_sizes_are_those_of_the_legend():
    recipe = make_recipe(eps=(0.0,), targets=("grocery",), subsets=("all",), ranking=None)
    rows = sized(recipe, per_class=(None,))
    detection = [replace(row, method="detection", num_source_images=None) for row in rows[:1]]
    sizes = [
        replace(row, num_source_images=images, subset=f"s{images}")
        for row in rows
        for images in (100, 200, 400, 800)
    ]
    section = source_sizes_section(detection + sizes)
    assert [entry.text for entry in section.legend] == ["fixed", "full"]
    svg = section.panels[0].svg
    assert all(f"--{entry.color}" in svg for entry in section.legend) and "series-3" not in svg
