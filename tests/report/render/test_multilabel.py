"""A multi-label target: the report shows its mean average precision."""

import csv
from pathlib import Path

from harness.report.data.collection import Collection
from harness.report.data.grid_rows import GridRows
from harness.report.data.rows import transfer_rows
from harness.report.render.figures.transfer import transfer_panels
from harness.report.render.page import write
from harness.report.render.tables.transfer import transfer_table
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics


def multi_label_scores(map11: float) -> dict[str, float | int]:
    return {
        "map11": map11,
        "map": map11 - 0.01,
        "top1": 0.8,
        "top5": 0.95,
        "loss": 2.0,
        "num_images": 4952,
        "num_correct": 3962,
    }


def results_and_recipe():
    recipe = make_recipe(targets=("grocery", "voc"), eps=(0.0, 0.5))
    recipe = recipe.model_copy(
        update={
            "targets": tuple(
                target.model_copy(update={"metric": "map11"}) if target.label == "voc" else target
                for target in recipe.targets
            )
        }
    )
    results = []
    for number, result in enumerate(make_results(recipe)):
        if result.kind == "transfer" and result.axes["target"] == "voc":
            scores = multi_label_scores(0.7 + 0.001 * number)
            result = replace_metrics(
                result,
                metric="map11",
                test=scores,
                val=scores,
                grid=[{"lr": 0.1, "val": scores}, {"lr": 0.01, "val": None}],
                num_classes=20,
            )
        results.append(result)
    return results, recipe


def test_tables_show_the_mean_average_precision():
    results, recipe = results_and_recipe()
    rows = transfer_rows(Collection(recipe, results))
    table = transfer_table(recipe, rows)
    column = [heading.label for heading in table.columns].index("11-point mAP")
    per_class = [heading.label for heading in table.columns].index("mean per class")
    for row, line in zip([row for row in rows], table.rows, strict=True):
        if row.target == "voc":
            assert row.score == row.map11
            assert line[column].text == f"{100 * row.score:.1f}"
            assert line[column].own
            assert line[per_class].text == "–" and not line[per_class].own
        else:
            assert row.map11 is None and line[column].text == "–"
    assert sum(line[column].best for line in table.rows) == 2  # one for fixed, one for full
    assert "top-1 and top-5 count images with a present class" in table.note
    assert {panel.title: panel.detail for panel in transfer_panels(recipe, rows)}[
        "voc"
    ] == "11-point mAP"


def test_csv_and_page_have_the_mean_average_precision(tmp_path: Path):
    results, recipe = results_and_recipe()
    write(recipe, results, [], tmp_path, ("csv", "html", "md"))
    with (tmp_path / "transfer.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["target"]: bool(line["map11"]) for line in lines} == {
        "grocery": False,
        "voc": True,
    }
    assert all(
        float(line["selected_score"]) == float(line["map11"])
        for line in lines
        if line["target"] == "voc"
    )
    assert [
        row.val_map11 for row in GridRows(Collection(recipe, results)) if row.target == "voc"
    ].count(None) == 12
    assert "11-point mAP" in (tmp_path / "index.html").read_text()


def test_without_a_multi_label_target_there_is_no_map_column():
    recipe = make_recipe()
    table = transfer_table(recipe, transfer_rows(Collection(recipe, make_results(recipe))))
    assert "11-point mAP" not in [column.label for column in table.columns]
    assert "present class" not in table.note
