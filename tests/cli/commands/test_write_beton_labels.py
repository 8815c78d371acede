"""`harness write-beton --labels`, and `labels` in a recipe: stage keys depend on the labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from harness.cli.main import cli
from harness.config.load import read as load
from harness.runner.inputs import plan
from harness.system.folders import Folders
from writers.errors import UserError

RECIPE = """
name: labeled
models: [torchvision/resnet18]
targets:
  - {path: pets, labels: pets/labels.csv}
methods: {fixed: {epochs: 1}}
"""


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw" / "pets"
    (folder / "train").mkdir(parents=True)
    for index in range(9):
        pixels = np.full((40, 50, 3), 20 * index, np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{index}.png")
    write_labels(folder, {})
    return folder


def write_labels(folder: Path, other: dict[int, str]) -> None:
    rows = (f"{index},{other.get(index, 'ab'[index % 2])}\n" for index in range(9))
    (folder / "labels.csv").write_text("id,label\n" + "".join(rows))


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_write_beton_reads_labels_from_a_table(pets: Path):
    arguments = ("write-beton", "--source", str(pets), "--out", "out", "--json", "--val", "0")
    (manifest,) = json.loads(harness(*arguments, "--labels", str(pets / "labels.csv")).stdout)
    assert manifest["classes"] == ["a", "b"] and manifest["class_counts"] == [5, 4]
    options = ("--labels", str(pets / "labels.csv"), "--labels-several")
    (manifest,) = json.loads(harness(*arguments, *options).stdout)
    assert manifest["multi_label"]


def test_options_without_effect_are_refused(pets: Path):
    with pytest.raises(UserError, match="have no effect without a table of labels"):
        harness("write-beton", "--source", str(pets), "--labels-column", "label")
    with pytest.raises(UserError, match="separator of labels has no effect"):
        table = ("--labels", str(pets / "labels.csv"), "--labels-separator", ";")
        harness("write-beton", "--source", str(pets), *table, "--labels-single")


def write_keys(recipe: Path, tmp_path: Path) -> dict[str, str]:
    folders = Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")
    stages = plan(load(recipe), folders).matrix.stages
    return {stage.name: stage.key for stage in stages if stage.kind == "write"}


def test_labels_of_a_recipe_decide_its_keys(pets: Path, tmp_path: Path):
    recipe = tmp_path / "labeled.yaml"
    recipe.write_text(RECIPE)
    before = write_keys(recipe, tmp_path)
    assert before == write_keys(recipe, tmp_path)
    table = (pets / "labels.csv").read_text()
    (pets / "labels.csv").write_text(table.replace("id,label", "image,class"))
    assert write_keys(recipe, tmp_path) == before  # the same labels under other column names
    write_labels(pets, {3: "a"})
    changed = write_keys(recipe, tmp_path)
    assert changed.keys() == before.keys() and not set(changed.values()) & set(before.values())
    recipe.write_text(
        RECIPE.replace("pets/labels.csv", "{files: [pets/labels.csv], several: true}")
    )
    (target,) = load(recipe).targets
    assert target.own_metric == "map11"
    recipe.write_text(RECIPE.replace("path: pets", "dataset: pets"))
    with pytest.raises(UserError, match="defines its labels"):
        load(recipe)
