"""Pairs of a method and a target that do not fit get no stages, and are listed once, by reason."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.config.load import read
from harness.matrix.expand import expand
from harness.matrix.left_out import left_out
from writers.errors import UserError

RECIPE = """
name: pairs
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
targets: [{dataset: synthetic_boxes}, {dataset: synthetic_scenes}, {dataset: pets}]
methods: {detection: {short_side: 64, long_side: 96}, full: {}, logreg: {}}
scores: [knn]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.yaml"
    path.write_text(RECIPE)
    return path


def test_every_pair_has_a_stage_or_is_listed(recipe: Path) -> None:
    read_recipe = read(str(recipe))
    stages = expand(read_recipe).stages
    planned = {
        (stage.axes["method"] if stage.kind == "transfer" else "scores", stage.axes["target"])
        for stage in stages
        if stage.kind in ("transfer", "score")
    }
    listed = [pair for pairs in left_out(read_recipe) for pair in pairs.pairs]
    everything = {
        (what, target.label)
        for what in ("detection", "full", "logreg", "scores")
        for target in read_recipe.targets
    }
    assert len(listed) == len(set(listed)) == 5
    assert planned | set(listed) == everything and not planned & set(listed)


def test_plan_lists_the_left_out_pairs_as_text_and_as_json(recipe: Path, tmp_path: Path) -> None:
    folders = [f"--{name}-dir={tmp_path / name}" for name in ("data", "raw", "runs")]
    text = CliRunner().invoke(cli, ["plan", str(recipe), *folders]).output
    lines = " ".join(text.split())
    assert lines.count("left out:") == 3
    assert "left out: 2 pairs, because the method needs boxes of objects" in lines
    assert "scores on synthetic_boxes" in lines
    result = CliRunner().invoke(cli, ["plan", str(recipe), *folders, "--json"])
    found = json.loads(result.stdout)["left_out"]
    assert ["detection", "pets"] in found[0]["pairs"] and len(found) == 3


def test_nothing_is_listed_if_all_pairs_fit(recipe: Path) -> None:
    targets = "targets=[{dataset: synthetic_scenes}]"
    fitting = read(str(recipe), [targets, "methods={full: {}}"])
    assert left_out(fitting) == []


def test_scores_without_a_target_that_fits_are_refused(recipe: Path) -> None:
    overrides = ["targets=[{dataset: synthetic_boxes}]", "methods={detection: {}}"]
    with pytest.raises(UserError, match="scores: need a target with labels of whole images"):
        read(str(recipe), overrides)
