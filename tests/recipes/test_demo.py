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
def report(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Run the clean half of the demo with three seeds; return its report's folder."""
    if not request.config.getoption("--demo-effects", None):
        pytest.skip("takes minutes: needs --demo-effects (make test-slow)")
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


def change(report: Path, target: str) -> tuple[float, float]:
    """Effect of the removal on transfer, as a mean over seeds with its 95 % half width."""
    [row] = [
        row
        for row in rows(report, "differences")
        if row["axis"] == "subset_by_target" and f"target={target}" in row["over"].split(";")
    ]
    assert row["num_seeds"] == "3"
    return float(row["difference"]), float(row["half_width_95"])


def change_of_fixed(report: Path, target: str) -> float:
    """Effect of the removal on frozen features: fine-tuning learns again what is missing."""
    means = []
    for subset in ("minus20pct", "all"):
        scores = [
            float(row["top1"])
            for row in rows(report, "transfer")
            if (row["target"], row["method"], row["subset"]) == (target, "fixed", subset)
        ]
        assert len(scores) == 3
        means.append(sum(scores) / len(scores))
    return means[0] - means[1]


def test_removing_hard_classes_harms_only_the_target_that_needs_them(report: Path) -> None:
    harm, half_width = change(report, "synthetic_patterns")
    assert harm < -0.08, (harm, half_width)
    other, half_width = change(report, "synthetic_scenes")
    assert other + half_width > 0 and other > harm / 2, (other, half_width)
    assert change_of_fixed(report, "synthetic_patterns") < -0.08
    assert abs(change_of_fixed(report, "synthetic_scenes")) < 0.06


def test_pretraining_on_all_classes_pays_on_the_scenes(report: Path) -> None:
    for method in ("fixed", "full"):
        gains = [
            float(row["difference"])
            for row in rows(report, "against_scratch")
            if (row["target"], row["method"], row["model"]) == ("synthetic_scenes", method, "all")
        ]
        assert len(gains) == 1 and gains[0] > 0.03


def test_the_removed_classes_are_those_that_are_hard_by_construction(report: Path) -> None:
    from writers.synthetic.objects import HARD_CLASSES

    removed = {row["name"] for row in rows(report, "classes") if row["removed_by"]}
    assert len(removed) == 6 and len(removed & set(HARD_CLASSES)) >= 5, removed
