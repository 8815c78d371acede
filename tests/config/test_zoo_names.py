"""Names of published classifiers are looked up once per installed version of a library."""

from pathlib import Path

import pytest

from harness.config import zoo_names
from writers.errors import UserError

PUBLISHED = {"net_a": ["V1", "V2"], "net_b": ["V2"], "other": ["V1"]}


@pytest.fixture
def lookups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record each import of a library, in a home folder without kept names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    imported: list[str] = []

    def look_up(library: str) -> dict[str, list[str]]:
        imported.append(library)
        return PUBLISHED

    monkeypatch.setattr(zoo_names, "_published_by_import", look_up)
    return imported


def test_a_second_pattern_imports_nothing(lookups: list[str]):
    assert zoo_names.matching("torchvision/net*") == ["torchvision/net_a", "torchvision/net_b"]
    assert zoo_names.matching("torchvision/*@V1") == [
        "torchvision/net_a@V1",
        "torchvision/other@V1",
    ]
    assert zoo_names.matching("torchvision/*", 1) == ["torchvision/net_a"]
    with pytest.raises(UserError, match="net_b@V1"):
        zoo_names.matching("torchvision/net_b@V1")
    assert lookups == ["torchvision"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"net_a": 1}', b"\xff"])
def test_damaged_names_are_looked_up_again(lookups: list[str], tmp_path: Path, content: bytes):
    zoo_names.matching("torchvision/*")
    (kept,) = (tmp_path / ".cache" / "harness").glob("torchvision-*.json")
    kept.write_bytes(content)
    assert len(zoo_names.matching("torchvision/*")) == 3
    assert lookups == ["torchvision"] * 2


def test_a_home_that_cannot_be_written_is_no_error(
    lookups: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert len(zoo_names.matching("torchvision/*")) == 3
    assert len(zoo_names.matching("torchvision/*")) == 3
    assert lookups == ["torchvision"] * 2


def test_another_version_is_looked_up_again(lookups: list[str], monkeypatch: pytest.MonkeyPatch):
    zoo_names.matching("torchvision/*")
    monkeypatch.setattr(zoo_names, "version", lambda library: "another")
    zoo_names.matching("torchvision/*")
    assert lookups == ["torchvision"] * 2
