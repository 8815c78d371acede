"""The instructions in CONTRIBUTING.md: files exist, and one new file adds a dataset or a model."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.cli.commands.ls import describe
from harness.modeling import classifier
from harness.runner.launcher import parse_options
from harness.transfer.score import compute
from tests.helpers import ROOT
from writers import names
from writers.dataset import open_dataset
from writers.source import SplitSettings

FILES = {
    ("writers.datasets", "moths"): '''
"""Moths."""
from writers.dataset import DatasetSpec
from writers.source import open_source

SPEC = DatasetSpec(name="moths", title="Moths", metric="top1", num_classes=3)

def open(path, settings):
    return open_source(path, settings, name=SPEC.name)
''',
    ("harness.modeling.archs", "mosaic"): '''
"""Mean color of a 2 x 2 grid."""
from torch import nn

def build(num_classes, channels=None):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 12
''',
    ("harness.transfer.scores", "spread"): '''
"""Spread."""
from harness.transfer.score import check_features

NEEDS = ("features",)

def score(*, features, probs=None, labels):
    matrix, _, _ = check_features(features, labels)
    return float(matrix.std())
''',
    ("harness.runner.launchers", "carrier"): '''
"""Pigeons."""
from pydantic import Field
from harness.runner.launcher import LauncherOptions

class Options(LauncherOptions):
    pigeons: int = Field(default=2, description="number of pigeons")
''',
}


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add one new file to each of the packages in FILES."""
    for (package, name), text in FILES.items():
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(text.lstrip())
        module = import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
    yield
    for package, name in FILES:
        sys.modules.pop(f"{package}.{name}", None)


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`((?:harness|writers|loaders|recipes|tests|docs)/[\w./<>]*)`", text))
    assert len(paths) > 25
    missing = [path for path in paths if not list(ROOT.glob(re.sub(r"<\w+>", "*", path)))]
    assert not missing


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("datasets", "moths", "Moths"),
        ("models", "mosaic", "Mean color of a 2 x 2 grid"),
        ("scores", "spread", "Spread."),
        ("launchers", "carrier", "Pigeons."),
    ],
)
def test_a_new_file_is_listed(kind: str, name: str, line: str) -> None:
    assert line in describe(kind)[name]


def test_a_new_dataset_is_opened(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for species in "abc":
            folder = tmp_path / "moths" / split / species
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    source = open_dataset("moths", tmp_path / "moths", SplitSettings())
    assert source.classes == ["a", "b", "c"]
    assert {split: len(images) for split, images in source.splits.items()} == {
        "train": 6,
        "val": 3,
        "test": 9,
    }


def test_a_new_model_is_built() -> None:
    model = classifier.build("mosaic", 5)
    logits = model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert logits.shape == (2, 5) and model.head.in_features == 12


def test_a_new_score_is_computed() -> None:
    features = np.random.default_rng(0).normal(size=(12, 4))
    computed = compute(["spread"], features=features, probs=None, labels=np.arange(12) % 3)
    assert computed.scores == {"spread": pytest.approx(features.std())}


def test_a_new_launcher_has_options() -> None:
    module = names.find("harness.runner.launchers", "carrier", "launcher")
    assert parse_options(module.Options, "carrier", ["pigeons=3"]).pigeons == 3
