"""Kill a writer twenty times: at random moments, and in turn while it writes.

No incomplete `.beton` file, no process and no shared memory may remain.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.execution import wait_for
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

# Import once, then fork a writer per input line and print its process id. A writer writes the same
# name repeatedly, alternating two encodings, so that kills hit every phase: encoding, digests,
# renames, removal of an older file. FFCV's writer keeps tables in /dev/shm, which a killed process
# leaves there; each writer therefore checks that it has none open.
FORKS = """
import os, sys
from pathlib import Path
from writers.beton.copy import copy_subset
from writers.dataset import SplitSettings, open_dataset
from writers.beton.encoding import Encoding
from writers.subset.spec import everything
from writers.beton.write import write_split

tree, file, whole = map(Path, sys.argv[1:])
source = open_dataset("folder", tree, SplitSettings())
subset = everything(source.classes)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        seed = int(line)
        while True:
            seed += 1
            if seed % 2:
                write_split(source, "train", subset, Encoding(), file, seed=seed)
            else:
                copy_subset(whole, subset, file)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


def test_killed_at_twenty_moments(source: Source, tree: Path, tmp_path: Path):
    file, whole = tmp_path / "out" / "train.beton", tmp_path / "whole.beton"
    write_split(source, "train", everything(source.classes), Encoding(format="raw"), whole)
    server = subprocess.Popen(
        [sys.executable, "-c", FORKS, tree, file, whole],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    moments, num_caught_writing = random.Random(0), 0
    try:
        for number in range(20):
            server.stdin.write(f"{number}\n")
            server.stdin.flush()
            pid = int(server.stdout.readline())
            leftovers = _temporary_files(file.parent)
            if number % 2:
                wait_for(lambda: _stops_while_writing(pid, file.parent, leftovers))  # noqa: B023
            else:
                time.sleep(moments.uniform(0.005, 0.12))
            assert not _shared_memory(pid), "a kill would leave it there"
            os.kill(pid, signal.SIGKILL)
            assert server.stdout.readline() == "gone\n"
            # the writer led its own session: none of its processes remain
            with pytest.raises(ProcessLookupError):
                os.killpg(pid, 0)
            num_caught_writing += bool(_temporary_files(file.parent) - leftovers)
            if file.exists():
                assert verify(file) == [], f"killed for the {number}. time"
            else:
                with pytest.raises(UserError, match="There is no beton"):
                    open_beton(file)
    finally:
        server.kill()
        server.communicate()
    assert num_caught_writing >= 10
    copy_subset(whole, everything(source.classes), file)  # the next call starts from a clean state
    assert verify(file) == []
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "train.beton",
        "train.beton.json",
    ]


def _temporary_files(folder: Path) -> set[Path]:
    """Return the files that writers of this folder have not finished."""
    return set(folder.glob(".*.writing"))


def _stops_while_writing(pid: int, folder: Path, leftovers: set[Path]) -> bool:
    """Stop the writer; let it continue if it has no temporary file besides those left by others."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    if _temporary_files(folder) - leftovers:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def _shared_memory(pid: int) -> list[str]:
    """Return the files of /dev/shm that a process has open or mapped."""
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            opened.append(str(link.readlink()))
    mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [name for name in opened + mapped if "/dev/shm/" in name]
