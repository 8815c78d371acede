"""Atomic writes leave the old or the new content, and no temporary files."""

import json
import os
from pathlib import Path

import pytest

from harness.system.atomic_write import write_atomically, write_json


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path):
    path = tmp_path / "deep" / "x.json"
    for value in ({"a": 1}, {"a": 2}):
        write_json(path, value)
        assert json.loads(path.read_text()) == value
    os.umask(umask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


def test_a_failed_write_keeps_the_old_content_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_nan_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_path_is_refused_as_a_folder():
    with pytest.raises(IsADirectoryError):
        write_atomically(Path(), b"x")


def test_special_files_are_not_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomically(pipe, b"x")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
