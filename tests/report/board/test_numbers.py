"""A leaderboard's numbers are those of the result files, computed here in another way."""

import csv
import json
import math
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

from harness.report.board import extract, site
from harness.report.board.merge import merge
from harness.report.board.pages import Pages
from harness.report.board.standings import board
from harness.report.board.tables import ranking_table
from harness.runner.result import Result
from tests.helpers.board_rows import export, row
from tests.helpers.report_fakes import make_recipe, make_results
from tests.helpers.report_html import Page

SEEDS = 0, 1, 2


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return make_results(make_recipe(seeds=SEEDS, eps=(0.0, 0.5)))


@pytest.fixture(scope="module")
def folder(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    recipe = make_recipe(seeds=SEEDS, eps=(0.0, 0.5))
    site.publish(folder, [extract.export(recipe, results, "Ada")])
    return folder


def own_metric(result: Result) -> float:
    test, metric = result.metrics["test"], result.metrics["metric"]
    return float(test[metric])


def scores(results: list[Result], subset: str, eps: float, method: str) -> dict[int, list[float]]:
    """Return seed -> scores on clothing and on grocery, read from the results."""
    return {
        seed: [
            own_metric(result)
            for target in ("clothing", "grocery")
            for result in results
            if result.kind == "transfer"
            and [result.axes[axis] for axis in ("subset", "eps", "method", "seed", "target")]
            == [subset, eps, method, seed, target]
        ]
        for seed in SEEDS
    }


def t_half_width(values: list[float]) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def test_every_transfer_and_evaluation_is_a_row_with_its_score(
    results: list[Result], folder: Path
) -> None:
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    found = {(row["key"], row["kind"], row["method"]): row["score"] for row in rows}
    expected = {}
    for result in results:
        if result.kind == "transfer":
            expected[result.key, "transfer", result.axes["method"]] = own_metric(result)
        elif result.kind == "evaluate":
            expected[result.key, "source", "clean"] = result.metrics["clean"]["common_masked"][
                "top1"
            ]
            if result.axes["eps"]:
                attacked = result.metrics["adversarial"]["common_masked"]["top1"]
                expected[result.key, "source", "l2 eps 0.5"] = attacked
    assert found == expected
    # Transfers: subsets x eps x seeds x targets x methods; then clean and attacked evaluations.
    assert len(rows) == len(expected) == 3 * 2 * 3 * 2 * 2 + 3 * 2 * 3 + 3 * 3


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("subset", ["all", "minus3", "minus6"])
@pytest.mark.parametrize("method", ["fixed", "full"])
def test_mean_and_interval_are_over_pretrained_models(
    results: list[Result], folder: Path, subset: str, eps: float, method: str
) -> None:
    lines = list(csv.DictReader((folder / "leaderboard.csv").open()))
    mine = [
        line
        for line in lines
        if line["ranking"] == f"Transfer: {method}" and line["model"] == f"{subset}, eps {eps:g}"
    ]
    by_seed = scores(results, subset, eps, method)
    means = [fmean(values) for values in by_seed.values()]
    expected = {
        "": (fmean(means), t_half_width(means)),
        "clothing": None,
        "grocery": None,
    }
    for index, target in enumerate(("clothing", "grocery")):
        values = [by_seed[seed][index] for seed in SEEDS]
        expected[target] = (fmean(values), t_half_width(values))
    assert {line["target"] for line in mine} == expected.keys()
    for line in mine:
        assert (float(line["mean"]), float(line["half_width_95"])) == pytest.approx(
            expected[line["target"]], rel=1e-4
        )
        assert line["num_models"] == "3"


def test_page_shows_the_numbers_and_the_order(results: list[Result], folder: Path) -> None:
    page = Page((folder / "index.html").read_text())
    name = next(name for name in page.tables if name.startswith("full-"))
    head, *lines = page.tables[name]
    assert head[:5] == ["model", "rank", "mean", "clothing", "grocery"]
    shown = {line[0]: line[2] for line in lines}
    means = {}
    for subset, num in (("all", 24), ("minus3", 21), ("minus6", 18)):
        for eps in (0.0, 0.5):
            by_seed = scores(results, subset, eps, "full")
            seed_means = [100 * fmean(values) for values in by_seed.values()]
            label = f"{subset}, eps {eps:g} {num} classes, resnet10"
            means[label] = fmean(seed_means)
            assert shown[label] == f"{means[label]:.1f} ± {t_half_width(seed_means):.1f}"
    assert [line[0] for line in lines] == sorted(means, key=lambda label: -means[label])
    assert [line[1] for line in lines] == ["1", "2", "3", "4", "5", "6"]


def test_parquet_and_csv_have_every_row(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert parquet.read_table(folder / "rows.parquet").to_pylist() == rows
    lines = list(csv.DictReader((folder / "rows.csv").open()))
    assert [float(line["score"]) for line in lines] == [row["score"] for row in rows]


def test_a_repeated_run_is_not_another_model() -> None:
    first, again = row(score=0.5), row(score=0.6, key="cd" * 10)
    other = row(seed=1, score=0.8)
    standing = board(merge([export(first, again, other)])).rankings[0].standings[0]
    mean = standing.scores[first.task_digest]
    assert (mean.mean, mean.num_seeds) == pytest.approx((fmean([0.55, 0.8]), 2))
    assert standing.num_units == 2


def test_transfer_seeds_of_a_loaded_model_are_one_model() -> None:
    rows = [row(pretrained_here=False, model="net", seed=s, score=0.5 + s / 10) for s in range(3)]
    standing = board(merge([export(*rows)])).rankings[0].standings[0]
    mean = standing.scores[rows[0].task_digest]
    assert (mean.mean, mean.num_seeds, mean.half_width) == (pytest.approx(0.6), 1, None)


def test_a_page_counts_pretrained_models_by_seed_without_random_weights() -> None:
    loaded = row(model_digest="a" * 16, pretrained_here=False, model="net", subset="")
    scratch = row(model_digest="b" * 16, subset="")
    rows = [row(seed=0), row(seed=1), loaded, scratch]
    page = Pages(board(merge([export(*rows)])), has_parquet=False).index()
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert facts["models"] == "3"
    assert facts["pretrained by the recipes, counting seeds"] == "2"


def test_mean_is_over_common_targets_and_a_model_without_one_has_no_rank() -> None:
    tasks = {"grocery": "a" * 16, "pets": "b" * 16}
    rows = [
        row(
            model_digest=model * 16,
            subset=f"s{model}",
            target=target,
            task_digest=task,
            score=score,
        )
        for model, target, score in (
            ("1", "grocery", 0.5),
            ("1", "pets", 0.7),
            ("2", "grocery", 0.6),
            ("2", "pets", 0.8),
            ("3", "grocery", 0.99),
        )
        for task in (tasks[target],)
    ]
    standings = board(merge([export(*rows)])).rankings[0].standings
    assert [(one.name, one.rank) for one in standings] == [("s2", 1), ("s1", 2), ("s3", None)]
    assert [one.mean and one.mean.mean for one in standings] == [
        pytest.approx(0.7),
        pytest.approx(0.6),
        None,
    ]


def test_minutes_of_a_cpu_are_not_averaged_with_those_of_a_gpu(tmp_path: Path) -> None:
    on_cpu = {"gpu": "", "pretrain_gpu": "", "pretrain_s": 6000.0, "transfer_s": 600.0}
    rows = [row(), row(seed=1, **on_cpu), row(model_digest="9" * 16, subset="slow", **on_cpu)]
    site.publish(tmp_path, [export(*rows)])
    page = Page((tmp_path / "index.html").read_text())
    head, first, second = next(iter(page.tables.values()))
    minutes = head.index("GPU-minutes")
    assert (first[minutes], second[minutes]) == ("10.0 + 1.0", "100 CPU + 10.0")


def test_measured_and_published_source_accuracies_are_marked(tmp_path: Path) -> None:
    """A model that somebody has measured shows no mean with its published accuracy."""
    digests = [letter * 16 for letter in "abc"]
    published = {"pretrained_here": False, "source_accuracy_from": "published"}
    rows = [
        row(model_digest=digests[0], source_accuracy=0.25),
        row(model_digest=digests[1], source_accuracy=0.75, **published),
        row(model_digest=digests[2], source_accuracy=0.75, key="ab", **published),
        row(model_digest=digests[2], source_accuracy=0.5, key="cd", pretrained_here=False),
    ]
    content = board(merge([export(*rows)]))
    (ranking,) = content.rankings
    table = ranking_table(content, ranking)
    at = [column.label for column in table.columns].index("source")
    assert "published" in table.columns[at].hint and "measured" in table.columns[at].hint
    assert sorted((cells[at].text, cells[at].below) for cells, _ in table.lines) == [
        ("25.0", "measured"),
        ("50.0", "measured"),
        ("75.0", "published"),
    ]
