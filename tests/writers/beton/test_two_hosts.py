"""Two hosts write one `.beton` file on a file system without shared locks."""

import multiprocessing
import os
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from writers.beton import atomic_file
from writers.beton.atomic_file import new_beton
from writers.beton.encoding import Encoding
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.lease import EXPIRES_S
from writers.source import Source
from writers.subset.spec import everything


def hold(file: Path, pipe: Connection) -> None:
    """Write as another host, whose locks this host cannot see, until the pipe is written to."""
    socket.gethostname = lambda: "far"
    atomic_file.fcntl.flock = lambda handle, operation: None
    with new_beton(file) as new:
        os.write(new.handle, b"growing")
        pipe.send(str(new.temporary))
        pipe.recv()


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_growing_file_of_another_host_stays(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
):
    file = tmp_path / "out" / "train.beton"
    ours, theirs = multiprocessing.Pipe()
    far = multiprocessing.get_context("fork").Process(target=hold, args=(file, theirs), daemon=True)
    far.start()
    temporary = Path(ours.recv())

    def refuse(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    if not has_locks:
        monkeypatch.setattr(atomic_file.fcntl, "flock", refuse)
    subset = everything(source.classes)
    try:
        with pytest.raises(UserError, match="Another process is writing"):
            write_split(source, "train", subset, Encoding(), file)
        assert temporary.read_bytes() == b"growing"
        assert list(file.parent.glob(".*.writing")) == [temporary]
        past = time.time() - EXPIRES_S - 60
        os.utime(temporary, (past, past))
        write_split(source, "train", subset, Encoding(), file)
        assert not temporary.exists() and verify(file) == []
    finally:
        far.kill()
        far.join()


def test_a_late_writer_does_not_replace_the_beton_of_its_successor(source: Source, tmp_path: Path):
    file, subset = tmp_path / "train.beton", everything(source.classes)
    manifest = write_split(source, "train", subset, Encoding(), file)
    with pytest.raises(UserError, match="another host took over"), new_beton(file) as late:
        late.temporary.unlink()
        late.publish(manifest)
    assert verify(file) == []


def test_the_file_of_a_killed_writer_of_this_host_is_removed_at_once(
    source: Source, tmp_path: Path
):
    name = f".train.beton.{atomic_file._this_host()}-00.writing"
    (tmp_path / name).touch()
    write_split(source, "train", everything(source.classes), Encoding(), tmp_path / "train.beton")
    assert not (tmp_path / name).exists()
