"""The demo finds the effects that its generated images have by construction."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = """
base: demo
name: demo3
seeds: [0, 1, 2]
eps: [0]
subsets:
  - all
  - {name: minus20pct, remove: {hardest: 0.2, by: reference}}
pretrain: {attack: null}
evaluate: {attack: null, eps_of_clean: null}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the clean half of the demo with three seeds; return its report's folder."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo3.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "harness.cli.main", "run", "demo3.yaml", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "minus20pct instead of all changed transfer by " in ended.stderr
    return folder / "runs/reports/demo3"


def rows(report: Path, name: str) -> list[dict[str, Any]]:
    with (report / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.timeout(1800)
def test_removing_hard_classes_harms_only_the_target_that_needs_them(report: Path) -> None:
    intervals = {}
    for row in rows(report, "differences"):
        if row["axis"] == "subset_by_target":
            target = row["over"].split(";")[0].removeprefix("target=")
            mean, half = float(row["difference"]), float(row["half_width_95"])
            intervals[target] = mean - half, mean + half
    low, high = intervals["synthetic_patterns"]
    assert high < -0.05, intervals
    low, high = intervals["synthetic_scenes"]
    assert low < 0.02 and high > -0.05 and high - low < 0.2, intervals


@pytest.mark.timeout(1800)
def test_pretraining_on_all_classes_pays_on_both_targets(report: Path) -> None:
    gains = {
        (row["target"], row["method"]): float(row["difference"])
        for row in rows(report, "against_scratch")
        if row["model"].startswith("all")
    }
    assert gains["synthetic_patterns", "full"] > 0.03, gains
    assert gains["synthetic_scenes", "full"] > 0.03, gains


@pytest.mark.timeout(1800)
def test_the_removed_classes_are_those_that_are_hard_by_construction(report: Path) -> None:
    from writers.synthetic.objects import HARD_CLASSES

    removed = {row["name"] for row in rows(report, "classes") if row["removed_by"]}
    assert len(removed) == 6
    assert len(removed & set(HARD_CLASSES)) >= 4, removed
