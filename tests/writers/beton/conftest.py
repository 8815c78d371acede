"""Fixtures of the tests of betons."""

from pathlib import Path

import pytest

from tests.helpers.reuse_workspace import Workspace
from writers.beton.encoding import Encoding
from writers.source import SplitSettings


@pytest.fixture
def workspace(tree: Path, tmp_path: Path) -> Workspace:
    return Workspace(tree, tmp_path / "data", SplitSettings(), Encoding())
