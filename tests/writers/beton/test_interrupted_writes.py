"""A `.beton` file is complete or absent after kills, interruptions, full disks, concurrent writers."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

PASS = Encoding(format="passthrough")
RAW = Encoding(format="raw")  # betons of equal images have equal size in any order


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


KILL_AT_STEP = """
import os, signal, sys
from pathlib import Path
from writers.beton.copy import copy_subset
from writers.dataset import SplitSettings, open_dataset
from writers.beton.encoding import Encoding
from writers.subset.spec import everything
from writers.beton.write import write_split

def killing(function):
    def step(*arguments, **options):
        global steps_left
        if not steps_left:
            os.kill(os.getpid(), signal.SIGKILL)
        steps_left -= 1
        return function(*arguments, **options)
    return step

steps_left = int(sys.argv[3])
source = open_dataset("folder", Path(sys.argv[1]), SplitSettings())
os.fsync, Path.unlink, Path.replace = killing(os.fsync), killing(Path.unlink), killing(Path.replace)
subset, encoding = everything(source.classes), Encoding(format="raw")
write_split(source, "train", subset, encoding, Path(sys.argv[2]), seed=1)
"""


@pytest.mark.parametrize(
    ("num_steps", "left"),
    [
        (0, "old"),  # before the new file is on the disk
        (1, "old"),  # before its manifest is on the disk
        (2, "old"),  # before the old file is removed
        (3, "none"),  # before the manifest is renamed
        (4, "none"),  # before the file is renamed
        (5, "new"),  # before the folder is synced
    ],
)
def test_a_write_killed_at_any_step_leaves_the_old_the_new_or_no_beton(
    source: Source, tree: Path, tmp_path: Path, num_steps: int, left: str
):
    file = tmp_path / "out" / "train.beton"
    old = write_split(source, "train", everything(source.classes), RAW, file)
    killed = subprocess.run(
        [sys.executable, "-c", KILL_AT_STEP, tree, file, str(num_steps)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    if left == "none":
        with pytest.raises(UserError, match="no beton"):
            open_beton(file)
    else:
        assert verify(file) == []
        assert (open_beton(file).manifest.sha256 == old.sha256) == (left == "old")
    new = write_split(source, "train", everything(source.classes), RAW, file, seed=1)
    assert new.bytes == old.bytes and new.sha256 != old.sha256
    assert names_in(file.parent) == ["train.beton", "train.beton.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("at", [0, 7, 15])
def test_an_interrupt_leaves_no_temporary_file_and_keeps_the_old_beton(
    source: Source, tmp_path: Path, error: type, at: int
):
    file = tmp_path / "out" / "train.beton"
    write_split(source, "train", everything(source.classes), RAW, file)
    before = file.read_bytes()

    def stop(done: int, total: int) -> None:
        if done == at:
            raise error

    with pytest.raises(error):
        write_split(source, "train", everything(source.classes), RAW, file, seed=1, progress=stop)
    assert names_in(file.parent) == ["train.beton", "train.beton.json"]
    assert file.read_bytes() == before


def test_a_second_writer_of_the_same_name_is_refused_and_another_name_is_not(
    source: Source, tmp_path: Path
):
    file = tmp_path / "out" / "train.beton"
    refused = []

    def write_others(done: int, total: int) -> None:
        if done == 5:
            write_split(source, "val", everything(source.classes), RAW, file.with_name("val.beton"))
            with pytest.raises(UserError, match="Another process is writing") as caught:
                write_split(source, "val", everything(source.classes), RAW, file)
            refused.append(caught.value)

    manifest = write_split(
        source, "train", everything(source.classes), RAW, file, progress=write_others
    )
    assert len(refused) == 1
    assert open_beton(file).manifest == manifest
    assert verify(file) == [] == verify(file.with_name("val.beton"))
    assert names_in(file.parent) == [
        "train.beton",
        "train.beton.json",
        "val.beton",
        "val.beton.json",
    ]


def test_concurrent_writers_of_one_name_are_serialized_or_refused(source: Source, tmp_path: Path):
    file, outcomes = tmp_path / "train.beton", []

    def write(seed: int) -> None:
        try:
            outcomes.append(
                write_split(
                    source, "train", everything(source.classes), RAW, file, seed=seed
                ).sha256
            )
        except UserError as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [outcome for outcome in outcomes if "Another process" not in outcome]
    assert len(outcomes) == 6 and written
    assert open_beton(file).manifest.sha256 in written
    assert verify(file) == []
    assert names_in(tmp_path) == ["train.beton", "train.beton.json", "tree"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_user_error_and_keeps_the_old_file(
    source: Source, tmp_path: Path, monkeypatch, number: int
):
    file = tmp_path / "out" / "val.beton"
    write_split(source, "val", everything(source.classes), PASS, file)
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("writers.beton.writeback.os.fsync", full)
    with pytest.raises(UserError, match="is full"):
        write_split(source, "val", everything(source.classes), PASS, file, seed=1)
    assert names_in(file.parent) == ["val.beton", "val.beton.json"]
    assert file.read_bytes() == before
    assert verify(file) == []


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root"
)
def test_a_disk_that_fills_up_while_writing(source: Source, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        with pytest.raises(UserError, match="is full"):
            write_split(
                source,
                "train",
                everything(source.classes),
                Encoding(format="raw"),
                disk / "train.beton",
            )
        assert names_in(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_with_the_name_of_the_beton_is_refused(source: Source, tmp_path: Path):
    (tmp_path / "out" / "val.beton").mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder"):
        write_split(source, "val", everything(source.classes), PASS, tmp_path / "out" / "val.beton")
    assert names_in(tmp_path / "out") == ["val.beton"]


def test_file_permissions_follow_the_umask(source: Source, tmp_path: Path):
    (tmp_path / "plain").write_text("")
    write_split(source, "val", everything(source.classes), PASS, tmp_path / "val.beton")
    modes = {
        path.stat().st_mode
        for path in (
            tmp_path / "plain",
            tmp_path / "val.beton",
            manifest_path(tmp_path / "val.beton"),
        )
    }
    assert len(modes) == 1


LIMITED = """
import resource, sys
from pathlib import Path
from writers.beton.copy import copy_subset
from writers.dataset import SplitSettings, open_dataset
from writers.beton.encoding import Encoding
from writers.errors import UserError
from writers.subset.spec import everything
from writers.beton.write import write_split
source = open_dataset("folder", Path(sys.argv[1]), SplitSettings())
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    subset, encoding = everything(source.classes), Encoding(format="raw")
    write_split(source, "train", subset, encoding, Path(sys.argv[2]))
except UserError as error:
    sys.exit(error.message)
"""


@pytest.mark.parametrize("limit", [1000, 2**21 + 100_000, 2**22 + 100])
def test_a_file_size_limit_is_a_user_error(tree: Path, tmp_path: Path, limit: int):
    """Stop the write among the images, within a page, and at the tables."""
    file = tmp_path / "out" / "train.beton"
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, tree, file, str(limit)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 1 and "does not support a file of this size" in ended.stderr
    assert "Traceback" not in ended.stderr and names_in(file.parent) == []


def test_a_full_disk_during_a_copy_is_a_user_error(source: Source, tmp_path: Path, monkeypatch):
    whole, file = tmp_path / "whole.beton", tmp_path / "out" / "val.beton"
    write_split(source, "val", everything(source.classes), PASS, whole)

    def full(*arguments: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("copy.os.copy_file_range", "writeback.os.fsync", "layout.os.ftruncate"):
        with monkeypatch.context() as patch:
            patch.setattr(f"writers.beton.{name}", full)
            with pytest.raises(UserError, match="is full"):
                copy_subset(whole, everything(source.classes), file)
        assert names_in(file.parent) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("harness-")]


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_a_defect_ends_the_write_and_names_the_image(
    source: Source, tmp_path: Path, monkeypatch, error: type
):
    key = source.splits["train"][3].key
    read = source.read

    def fail(example):
        if example.key == key:
            raise error
        return read(example)

    monkeypatch.setattr(source, "read", fail)
    with pytest.raises(error) as caught:
        write_split(
            source, "train", everything(source.classes), PASS, tmp_path / "out" / "train.beton"
        )
    assert any(key in note for note in caught.value.__notes__)
    assert names_in(tmp_path / "out") == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("harness-")]
