"""A target with boxes: the report shows both mean precisions, and no top-1."""

import csv
from pathlib import Path

from harness.report.data.collection import Collection
from harness.report.data.rows import GridRows, transfer_rows
from harness.report.render.page import write
from harness.report.render.tables.transfer import transfer_table
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


def test_tables_show_both_mean_precisions_and_no_top1():
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


def test_the_page_and_the_csv_have_them(tmp_path: Path):
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
