"""`harness score`: all scores and their variants of a model for a dataset, also for programs, and what cannot be computed."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.modeling import classifier as model
from harness.transfer.scores import knn
from tests.helpers.tiny_stages import write_colours

ALL = [
    "gbc",
    "hscore",
    "hscore_shrunk",
    "knn",
    "knn_k5",
    "knn_k20",
    "knn_cosine",
    "leep",
    "logme",
    "nce",
    "nleep",
    "transrate",
]


def invoke(root: Path, *arguments: str, name: str = "model.pt") -> Result:
    return CliRunner().invoke(
        cli,
        [
            "score",
            "--model",
            str(root / name),
            "--dataset",
            "folder",
            "--source",
            str(root / "data" / "colours-images"),
            "--data-dir",
            str(root / "betons"),
            *arguments,
        ],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("command")
    (root / "data").mkdir()
    write_colours(root / "data")
    torch.manual_seed(0)
    about = {"arch": "resnet10", "channels": [16, 16, 16, 16], "resolution": 24}
    built = model.build("resnet10", 5, channels=(16, 16, 16, 16))
    model.save(root / "model.pt", built, about)
    model.save(root / "headless.pt", built, {**about, "has_head": False})
    return root


def test_all_scores_for_people_and_for_programs(root: Path):
    shown = invoke(root)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines() if line.startswith("  ")]
    assert sorted(line[0] for line in lines) == sorted(ALL)
    told = json.loads(invoke(root, "--json").stdout)
    assert (
        sorted(told["scores"]) == sorted(ALL) and told["failed"] == {} and told["num_images"] == 60
    )
    assert ["knn", f"{100 * told['scores']['knn']:.1f}", "%"] in lines and told["details"]["nleep"][
        "num_components"
    ] == 15
    assert told["seconds"].keys() >= {"knn", "nleep"}


def test_scores_by_name_and_a_model_without_classes(root: Path):
    told = invoke(root, "--scores", "knn,leep", name="headless.pt")
    assert (
        told.exit_code == 0 and "leep          not computed: This score needs probs" in told.output
    )
    assert json.loads(invoke(root, "--scores", "logme", "--json").stdout)["scores"].keys() == {
        "logme"
    }
    wrong = CliRunner().invoke(
        cli, ["score", "--model", "model.pt", "--dataset", "folder", "--scores", "lep"]
    )
    assert wrong.exception is not None and "no score named 'lep'" in str(wrong.exception)


def test_equal_images_are_told(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(knn, "duplicates", lambda features: 7)
    assert "7 images have the features of an earlier one" in invoke(root, "--scores", "knn").output
