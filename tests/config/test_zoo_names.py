"""Names of published classifiers are looked up once per installed version of a library."""

from importlib.metadata import version
from pathlib import Path

import pytest

from harness.config import zoo_names
from harness.system.folders import user_cache
from writers.errors import UserError

PUBLISHED = {"net_a": ["V1", "V2"], "net_b": ["V2"], "other": ["V1"]}


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record each import of a library."""
    imported: list[str] = []

    def look_up(library: str) -> dict[str, list[str]]:
        imported.append(library)
        return PUBLISHED

    monkeypatch.setattr(zoo_names, "_published_by_import", look_up)
    return imported


def test_a_second_pattern_imports_nothing(lookups: list[str], tmp_path: Path):
    for pattern, limit, names in (
        ("torchvision/net*", None, ["torchvision/net_a", "torchvision/net_b"]),
        ("torchvision/*@V1", None, ["torchvision/net_a@V1", "torchvision/other@V1"]),
        ("torchvision/*", 1, ["torchvision/net_a"]),
    ):
        assert zoo_names.matching(pattern, limit, tmp_path / "new") == names
    with pytest.raises(UserError, match="net_b@V1"):
        zoo_names.matching("torchvision/net_b@V1", None, tmp_path / "new")
    assert lookups == ["torchvision"]


def test_without_a_cache_folder_nothing_is_read_or_written(
    lookups: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert len(zoo_names.matching("torchvision/*")) == 3
    assert lookups == ["torchvision"] * 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b'{"net_a": 1}', b"\xff"])
def test_a_damaged_cache_is_replaced(lookups: list[str], tmp_path: Path, content: bytes):
    zoo_names.matching("torchvision/*", None, tmp_path)
    (kept,) = tmp_path.glob("torchvision-*.json")
    kept.write_bytes(content)
    assert len(zoo_names.matching("torchvision/*", None, tmp_path)) == 3
    assert lookups == ["torchvision"] * 2


def test_an_unwritable_cache_folder_is_not_an_error(lookups: list[str], tmp_path: Path):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert len(zoo_names.matching("torchvision/*", None, tmp_path / "file")) == 3
    assert lookups == ["torchvision"] * 2


@pytest.mark.parametrize("package", ["torchvision", "harness"])
def test_a_new_library_version_refreshes_the_cache(
    lookups: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    zoo_names.matching("torchvision/*", None, tmp_path)
    monkeypatch.setattr(
        zoo_names, "version", lambda name: "99" if name == package else version(name)
    )
    zoo_names.matching("torchvision/*", None, tmp_path)
    assert lookups == ["torchvision"] * 2


@pytest.mark.parametrize(("base", "folder"), [("/caches", "/caches"), ("", "/home/a/.cache")])
def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, base: str, folder: str
):
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert user_cache() == Path(folder) / "harness"
