"""Fixtures of the stage tests: a tiny source, a tiny target and a pretrained model."""

from pathlib import Path

import pytest

from harness.runner.result import Result
from harness.stages.pretrain import run as pretrain
from tests.helpers.tiny_stages import (
    as_result,
    pretrain_context,
    write_colors,
)


@pytest.fixture(scope="module")
def source(root: Path) -> Result:
    return write_colors(root / "data")


@pytest.fixture(scope="module")
def target(root: Path) -> Result:
    return write_colors(root / "data", "other colors", 4)


@pytest.fixture(scope="module")
def model(root: Path, source: Result) -> Result:
    outcome = pretrain.run(pretrain_context(root, source, settings={"epochs": 20}))
    return as_result("pretrain", outcome.metrics)
