"""A fixture with the file of a small recipe."""

from pathlib import Path

import pytest

from tests.helpers.tiny_recipe import GOOD


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    return path
