"""Errors of the file system and of memory: which are recognized, and what the user reads."""

import errno
import os
from pathlib import Path

import pytest
import torch

from harness.system.os_errors import FIXES, explain, of_path
from harness.system.out_of_memory import is_out_of_memory


@pytest.mark.parametrize("number", FIXES)
def test_an_explained_error_names_problem_file_and_fix(number: int):
    error = explain(OSError(number, os.strerror(number), "/data/x.beton"))
    assert error is not None
    assert error.message.endswith(": /data/x.beton") and error.hint.endswith(".")


def test_the_target_of_a_rename_is_named():
    error = explain(OSError(errno.ENOSPC, "", "/tmp/.x", None, "/data/x"))
    assert error is not None and error.message == "The disk is full: /data/x"


def test_paths_that_lead_nowhere_are_explained(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    for fail, words in (
        ((tmp_path / "loop").stat, "Links lead back to themselves"),
        (Path("~no-such-user-here/x").expanduser, "~ names no user."),
    ):
        with pytest.raises((OSError, RuntimeError)) as caught:
            fail()
        explained = explain(caught.value)
        assert explained is not None and words in explained.message
    # pathlib of Python 3.11 and 3.12 raises this instead of an OSError
    explained = explain(RuntimeError("Symlink loop from '/a/loop'"))
    assert explained is not None and explained.message.endswith("'/a/loop'.")


def test_a_working_directory_that_is_gone_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert explain(missing) is None
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    explained = explain(missing)
    assert explained is not None and "working directory no longer exists" in explained.message


def test_any_error_of_a_path_can_be_stated():
    error = of_path(OSError(errno.ENOENT, "No such file or directory", "/proc/x"))
    assert error is not None and error.message == "No such file or directory: /proc/x"
    assert of_path(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert of_path(RuntimeError("size mismatch")) is None


def test_an_unknown_error_is_not_explained():
    assert explain(RuntimeError("size mismatch")) is None
    assert explain(OSError(errno.EBADF, "Bad file descriptor")) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_for_exhausted_memory_are_recognized(error: BaseException, expected: bool):
    assert is_out_of_memory(error) is expected
