"""A whole `.beton` file is reused as a hard link, or as a copy if it cannot be linked."""

import os
import shutil
from pathlib import Path

from tests.helpers.reuse_workspace import Workspace
from writers.beton.atomic_file import _this_host
from writers.beton.encoding import Encoding
from writers.beton.verify import verify
from writers.subset.spec import everything


def test_a_whole_file_is_hard_linked_and_survives_its_source(workspace: Workspace):
    whole = workspace.write()
    taken = workspace.reuse(everything(workspace.source.classes))
    file = workspace.data / "taken" / "train.beton"
    assert taken and file.samefile(whole)
    workspace.check_equals_written(everything(workspace.source.classes))
    before, links = file.read_bytes(), file.stat().st_nlink
    workspace.encoding = Encoding(format="raw")
    workspace.write()  # overwrite the first
    assert not file.samefile(whole)
    assert file.read_bytes() == before
    assert file.stat().st_nlink == links - 1
    assert verify(file) == []
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "train.beton",
        "train.beton.json",
    ]


def test_a_whole_file_is_copied_if_linking_fails(workspace: Workspace, monkeypatch):
    def refuse(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    whole = workspace.write()
    monkeypatch.setattr(os, "link", refuse)
    assert workspace.reuse(everything(workspace.source.classes))
    assert not (workspace.data / "taken" / "train.beton").samefile(whole)
    workspace.check_equals_written(everything(workspace.source.classes))


def test_a_beton_that_is_replaced_before_it_is_linked_is_copied(workspace: Workspace, monkeypatch):
    """The file that was checked is the file that is linked."""
    whole, link = workspace.write(), os.link

    def link_late(file: Path, linked: Path) -> None:
        shutil.copy(file, workspace.data / "new")
        (workspace.data / "new").replace(file)
        link(file, linked)

    monkeypatch.setattr(os, "link", link_late)
    assert workspace.reuse(everything(workspace.source.classes))
    assert not (workspace.data / "taken" / "train.beton").samefile(whole)
    assert len(list((workspace.data / "taken").iterdir())) == 2
    workspace.check_equals_written(everything(workspace.source.classes))


def test_the_next_writer_removes_the_link_of_a_killed_one(workspace: Workspace):
    whole, folder = workspace.write(), workspace.data / "taken"
    folder.mkdir()
    (folder / f".train.beton.{_this_host()}-00.writing").touch()
    os.link(whole, folder / f".train.beton.{_this_host()}-00.link")
    assert workspace.reuse()
    assert sorted(path.name for path in folder.iterdir()) == ["train.beton", "train.beton.json"]
