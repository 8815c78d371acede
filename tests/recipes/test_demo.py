"""The demo's report shows the effects that its generated images have by construction."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from writers.synthetic.objects import CLASSES, HARD_CLASSES

ROOT = Path(__file__).parents[2]
SEEDS = {"seeds": [0, 1, 2], "eps": [0], "pretrain": {"attack": None}}
CLEAN = {"attack": None, "eps_of_clean": None}
# Transfer of frozen features of clean models. The subset without the six hard classes lists its
# classes, so no ranking is needed. With half of the demo's epochs, the effect is as large at half
# of the cost.
FROZEN = {
    "base": "demo",
    "name": "frozen",
    **SEEDS,
    "pretrain": {"attack": None, "epochs": 6},
    "ranking": None,
    "subsets": ["all", {"name": "easy", "classes": sorted(CLASSES.keys() - set(HARD_CLASSES))}],
    "evaluate": CLEAN,
    "exclude": [{"method": ["full", "scratch"]}],
}
# The demo without attacks, with three seeds.
CLEAN_HALF = {
    "base": "demo",
    "name": "clean",
    **SEEDS,
    "subsets": ["all", {"name": "minus20pct", "remove": {"hardest": 0.2, "by": "reference"}}],
    "evaluate": CLEAN,
}
EQUIVALENT = 0.06  # a smaller change of the transfer accuracy (a fraction) counts as none


def run(recipe: dict[str, Any], folder: Path) -> Path:
    """Run a recipe with -q; return the folder of its report.

    Checks that the answer to the recipe's question and the path of the report are printed.
    """
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [sys.executable, "-m", "harness.cli.main", "run", "recipe.yaml", "--jobs", "2"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, "--threads", "1", "-q"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert " instead of all changed transfer by " in ended.stderr
    report = folder / "runs/reports" / recipe["name"]
    assert ended.stdout == f"Report: {report.resolve()}/index.html\n"
    return report


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(FROZEN, tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    if not request.config.getoption("--demo-effects", None):
        pytest.skip("takes minutes: needs --demo-effects (make test-slow)")
    return run(CLEAN_HALF, tmp_path_factory.mktemp("clean"))


def rows(report: Path, name: str) -> list[dict[str, Any]]:
    with (report / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def change(report: Path, target: str) -> tuple[float, float]:
    """Return how much removing the hard classes changes the accuracy on a target.

    Returns the mean over seeds and the half width of its 95 % interval, as fractions.
    """
    [row] = [
        row
        for row in rows(report, "differences")
        if row["axis"] == "subset_by_target" and f"target={target}" in row["over"].split(";")
    ]
    assert row["num_seeds"] == "3"
    return float(row["difference"]), float(row["half_width_95"])


def assert_only_patterns_are_harmed(report: Path, at_least: float) -> None:
    """Check that accuracy drops on patterns, whose classes differ in blue, but not on scenes.

    Only the hard classes, which are removed, teach a model to see blue.
    """
    harm, half_width = change(report, "synthetic_patterns")
    assert harm < -at_least and harm + half_width < 0, (harm, half_width)
    other, half_width = change(report, "synthetic_scenes")
    assert abs(other) < max(EQUIVALENT, half_width), (other, half_width)
    assert other > harm / 3


def test_frozen_features_without_the_hard_classes_harm_only_patterns(frozen: Path) -> None:
    assert_only_patterns_are_harmed(frozen, at_least=0.12)


def test_removing_the_hardest_classes_harms_only_the_target_that_needs_them(clean: Path) -> None:
    assert_only_patterns_are_harmed(clean, at_least=0.05)


def test_pretraining_on_all_classes_pays_on_the_scenes(clean: Path) -> None:
    for method in ("fixed", "full"):
        gains = [
            float(row["difference"])
            for row in rows(clean, "against_scratch")
            if (row["target"], row["method"], row["model"]) == ("synthetic_scenes", method, "all")
        ]
        assert len(gains) == 1 and gains[0] > 0.02


def test_the_removed_classes_are_those_that_are_hard_by_construction(clean: Path) -> None:
    removed = {row["name"] for row in rows(clean, "classes") if row["removed_by"]}
    assert len(removed) == 6 and len(removed & set(HARD_CLASSES)) >= 5, removed
