"""Files of arrays of stages: read back as written, and named when they are damaged."""

import numpy as np
import pytest

from harness.system.array_files import open_arrays, write_arrays
from writers.errors import UserError

ARRAYS = {"positions": np.arange(100), "labels": np.array([1, -1, 0])}


def test_arrays_are_read_as_written_and_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_arrays(tmp_path / name, ARRAYS)
    with open_arrays(tmp_path / "a", "positions") as arrays:
        assert arrays.keys() == ARRAYS.keys()
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "empty", "begin", "half", "text", "other arrays"])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = tmp_path / "train.npz"
    if damage == "other arrays":
        write_arrays(file, {"labels": ARRAYS["labels"]})
    elif damage != "missing":
        write_arrays(file, ARRAYS)
        data = file.read_bytes()
        file.write_bytes(
            {"empty": b"", "begin": b"PK", "half": data[: len(data) // 2], "text": b"no arrays"}[
                damage
            ]
        )
    with (
        pytest.raises(UserError, match=r"train\.npz is not a complete file of positions"),
        open_arrays(file, "positions") as arrays,
    ):
        arrays["positions"]
