"""Missing raw images are reported with a fix that depends on their location."""

from pathlib import Path

import pytest

from harness.config import load, raw_paths


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function from a source's path to the message that it is missing, or ""."""
    monkeypatch.chdir(tmp_path)

    def found(path: str) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(f"source: {{path: {path}}}\nsubsets: [all]\n")
        recipe = load.read(file, ["name=mine"])
        assert recipe.source is not None
        label = recipe.source.label
        return raw_paths.missing(recipe, tmp_path / "raw", [label]).get(label, "")

    return found


def test_images_in_the_current_folder_suggest_raw_dir(missing, tmp_path: Path):
    (tmp_path / "my-photos").mkdir()
    text = missing("my-photos")
    assert str(tmp_path / "raw/my-photos") in text and "--raw-dir ." in text


def test_absent_images_do_not_suggest_raw_dir(missing):
    assert "--raw-dir" not in missing("my-photos")
    assert missing("/no/such/folder") == "There is no /no/such/folder."


def test_images_in_place_are_not_missing(missing, tmp_path: Path):
    (tmp_path / "raw/my-photos").mkdir(parents=True)
    assert missing("my-photos") == ""
