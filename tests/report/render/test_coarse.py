"""Models of fine classes, evaluated on the coarser labels of another model: table and CSV rows."""

import csv
from pathlib import Path
from typing import Any

from harness.report.render.page import write
from harness.runner.result import Result
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics, scores
from tests.helpers.report_html import Page

OWN, SUM, MAX = 0.5, {"all": 0.7, "minus3": 0.6}, {"all": 0.6, "minus3": 0.65}


def on_coarse_labels(result: Result) -> Result:
    """Return the result of an evaluation with accuracies on the 8 coarser labels of minus6.

    `all` and minus3 have finer classes. Results of other kinds are returned unchanged.
    """
    if result.kind != "evaluate":
        return result
    subset, more = result.axes["subset"], 0.01 * result.axes["seed"]
    found: dict[str, Any] = (
        {"own": scores(OWN + more, 1000)}
        if subset == "minus6"
        else {"sum": scores(SUM[subset] + more, 1000), "max": scores(MAX[subset] + more, 1000)}
    )
    attacked = {by: scores(0.2, 1000) for by in found} if result.axes["eps"] else None
    return replace_metrics(
        result, coarse={"minus6": {"num_labels": 8, "clean": found, "adversarial": attacked}}
    )


def test_finer_models_are_in_the_table_of_the_coarse_model(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    page = write(
        recipe,
        [on_coarse_labels(result) for result in make_results(recipe)],
        [],
        tmp_path,
        ("html", "csv"),
    )
    table = Page(page.read_text()).tables["coarse-0"]
    assert table[0][-1] == "minus6" and table[1] == ["training classes", "eps", "8 labels"]
    assert table[2] == ["all 24", "0", "70.5 (60.5) sd 0.7 (0.7)"]
    assert [row[0].split()[0] for row in table[2:]] == [
        "all",
        "all",
        "minus3",
        "minus3",
        "minus6",
        "minus6",
    ]
    assert table[6] == ["minus6 18", "0", "50.5 sd 0.7"]
    with (tmp_path / "coarse.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Seeds x rows per model (sum and max; only own for minus6): clean at eps 0; both at eps 0.5.
    assert len(rows) == 2 * (2 + 2 + 1) + 2 * 2 * (2 + 2 + 1)
    (row,) = [
        row
        for row in rows
        if (row["subset"], row["by"], row["attack"], row["eps"], row["seed"])
        == ("minus3", "max", "clean", "0.5", "1")
    ]
    assert float(row["top1"]) == 0.66 and row["labels"] == "minus6" and row["num_labels"] == "8"


def test_models_of_other_classes_have_no_line_and_a_coarse_model_alone_no_table(
    tmp_path: Path,
) -> None:
    recipe = make_recipe(eps=(0.0,))
    results = make_results(recipe)
    without = [
        replace_metrics(result, coarse={})
        if result.axes.get("subset") == "minus3" and result.kind == "evaluate"
        else on_coarse_labels(result)
        for result in results
    ]
    text = write(recipe, without, [], tmp_path / "one", ("html",)).read_text()
    assert [row[0].split()[0] for row in Page(text).tables["coarse-0"][2:]] == ["all", "minus6"]
    alone = [
        on_coarse_labels(result) if result.axes.get("subset") == "minus6" else result
        for result in results
    ]
    assert (
        "coarse-0"
        not in Page(write(recipe, alone, [], tmp_path / "two", ("html",)).read_text()).tables
    )


def test_a_model_that_covers_only_some_labels_is_not_compared(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,))
    results = [on_coarse_labels(result) for result in make_results(recipe)]
    few = [
        replace_metrics(
            result, coarse={"minus6": result.metrics["coarse"]["minus6"] | {"num_labels": 5}}
        )
        if result.kind == "evaluate" and result.axes["subset"] == "minus3"
        else result
        for result in results
    ]
    page = write(recipe, few, [], tmp_path, ("html", "csv"))
    table = Page(page.read_text()).tables["coarse-0"]
    assert table[1][-1] == "8 labels"
    assert [row[0].split()[0] for row in table[2:]] == [
        "all",
        "minus6",
    ]
    assert "minus3" in (tmp_path / "coarse.csv").read_text()
