"""Headline numbers of four studies at `scale=tiny`, recomputed from the result files alone."""

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.benches._fabricate import write_results
from harness.cli.commands.report import write_report
from harness.config.load import read
from harness.matrix.expand import expand
from harness.system.folders import Folders

STUDIES = ("better_models", "model_zoo", "non_binary", "fewer_classes")
Row = dict[str, str]


class Study:
    """Result files of a recipe, and the tables of its report."""

    def __init__(self, name: str, root: Path) -> None:
        matrix = expand(read(name, ("scale=tiny",)))
        runs = root / "runs"
        write_results(matrix.stages, runs)
        self.out = root / "report"
        write_report(matrix, Folders(root / "data", root / "raw", runs), ("csv",), self.out)
        records = [json.loads(file.read_text()) for file in runs.glob("stages/*/*/result.json")]
        self.by_key: dict[str, Any] = {record["key"]: record for record in records}
        self.transfers = self.of("transfer")

    def of(self, kind: str) -> list[Any]:
        return [record for record in self.by_key.values() if record["kind"] == kind]

    def table(self, name: str) -> list[Row]:
        with (self.out / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(request.param, tmp_path_factory.mktemp(request.param))


def score(record: Any) -> float:
    return float(record["metrics"]["test"][record["metrics"]["metric"]])


def model_of(record: Any) -> tuple[Any, ...]:
    axes = record["axes"]
    names = ("model", "arch", "subset", "variant")
    return (*(axes.get(name, "") for name in names), axes.get("eps") or 0.0)


def largest(records: list[Any]) -> list[Any]:
    """Keep the transfers of each method with the most images and steps."""
    methods = defaultdict(list)
    for record in records:
        methods[record["axes"]["method"]].append(record)

    def size(record: Any) -> tuple[float, float]:
        axes = record["axes"]
        return axes.get("per_class") or float("inf"), axes.get("steps") or float("inf")

    return [
        record
        for of_method in methods.values()
        for record in of_method
        if size(record) == max(map(size, of_method))
    ]


def test_every_transfer_is_in_the_table_with_its_score(study: Study) -> None:
    table = {row["key"]: row for row in study.table("transfer.csv")}
    assert table.keys() == {record["key"] for record in study.transfers}
    for record in study.transfers:
        row = table[record["key"]]
        assert float(row[row["metric"]]) == score(record)
        assert int(row["num_configs"]) == len(record["metrics"]["grid"])


def test_the_first_figure_has_the_means_over_targets(study: Study) -> None:
    means = defaultdict(list)
    for record in largest(study.transfers):
        if "scratch" not in record["axes"]["method"]:
            means[record["axes"]["method"], model_of(record)].append(score(record))
    found = [float(row["mean"]) for row in study.table("figures/means.csv")]
    assert sorted(found) == pytest.approx(sorted(map(statistics.fmean, means.values())))


def test_differences_of_methods_are_means_of_pairs(study: Study) -> None:
    scores: dict[str, dict[Any, float]] = defaultdict(dict)
    for record in largest(study.transfers):
        axes = record["axes"]
        scores[axes["method"]][axes["target"], axes.get("seed"), model_of(record)] = score(record)
    rows = [row for row in study.table("comparisons.csv") if row["axis"] == "method"]
    checked = 0
    for row in rows:
        first, second = scores[row["setting"]], scores[row["baseline"]]
        if "scratch" in row["setting"] + row["baseline"]:
            continue  # has no source model: runs are paired by architecture
        pairs = [first[place] - second[place] for place in first if place in second]
        assert float(row["difference"]) == pytest.approx(statistics.fmean(pairs))
        won = (sum(pair > 0 for pair in pairs), sum(pair == 0 for pair in pairs))
        assert (int(row["wins"]), int(row["ties"])) == won
        checked += 1
    assert checked


def clean_top1(record: Any) -> float:
    return float(record["metrics"]["clean"]["common_unmasked"]["top1"])


def test_differences_of_variants_and_subsets_are_those_of_the_evaluations(study: Study) -> None:
    evaluated = {model_of(record): record for record in study.of("evaluate")}
    rows = [
        row
        for row in study.table("differences.csv")
        if row["measure"] == "clean common_unmasked" and row["axis"] in ("variant", "subset")
    ]
    if study.of("evaluate"):
        assert rows or len(evaluated) == 1
    place_of: dict[str, Callable[[Row, str], tuple[Any, ...]]] = {
        "variant": lambda row, value: ("", row["arch"], "all", value, 0.0),
        "subset": lambda row, value: ("", row["arch"], value, "", 0.0),
    }
    for row in rows:
        if "eps=0;eps=1" in row["over"]:
            continue  # a mean over eps; each eps also has a row
        if row["axis"] == "subset" and "eps=0" not in row["over"]:
            continue
        setting, baseline = (
            clean_top1(evaluated[place_of[row["axis"]](row, row[side])])
            for side in ("setting", "baseline")
        )
        assert float(row["difference"]) == pytest.approx(setting - baseline)


def test_scores_are_those_of_the_score_stages(study: Study) -> None:
    expected = {
        (record["key"], name): value
        for record in study.of("score")
        for name, value in record["metrics"]["scores"].items()
    }
    table = study.table("scores.csv")
    found = {(row["key"], row["name"]): float(row["value"]) for row in table}
    assert found == expected
