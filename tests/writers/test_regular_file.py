"""Pipes and devices in place of files are refused at once; reading them would never end."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.tiny_betons import photo, write_beton
from writers.beton.adopt import adopt
from writers.beton.store import manifest_path, open_beton
from writers.beton.verify import verify
from writers.errors import UserError
from writers.labels.settings import LabelTable
from writers.raw_files import content_digest, digest_of_table
from writers.regular_file import open_regular


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.fixture(params=[pipe, device, Path.mkdir])
def special(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    make: Callable[[Path], None] = request.param
    make(tmp_path / "train.beton")
    return tmp_path / "train.beton"


def test_special_files_are_refused_at_once(special: Path, tmp_path: Path):
    for read in (open_regular, content_digest):
        with pytest.raises(OSError, match="not a regular file"):
            read(special)
    with pytest.raises(UserError, match="not a regular file"):
        adopt(special, split="train", name="x")
    (tmp_path / "whole").mkdir()
    whole = write_beton(tmp_path / "whole" / "train.beton", [photo(8, 8, 0)], [0], raw=[True])
    shutil.copy(manifest_path(whole), manifest_path(special))
    fault = "is a folder, not a beton" if special.is_dir() else "not a regular file"
    with pytest.raises(UserError, match=fault):
        open_beton(special)
    assert fault in verify(special)[0]


def test_a_pipe_as_table_of_labels_is_refused_at_once(tmp_path: Path):
    pipe(tmp_path / "labels.csv")
    assert digest_of_table(LabelTable(files=[str(tmp_path / "labels.csv")])) is None
