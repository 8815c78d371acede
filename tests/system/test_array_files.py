"""Array files (.npz) of stages: read back as written; errors name a damaged or edited file."""

import os

import numpy as np
import pytest

from harness.stages._subset import FORMS as SCORES
from harness.system.array_files import Form, read_arrays, write_arrays
from harness.train.loader_plans import FORMS as POSITIONS
from harness.transfer.features import FORMS as FEATURES
from writers.errors import UserError

ARRAYS = {"positions": np.arange(100), "labels": np.array([1, -1, 0])}
IDS = np.arange(4, dtype=np.uint64)
OF_SCORES = {"ids": IDS, "values": np.zeros(4)}
OF_FEATURES = {
    "features": np.zeros((4, 3), np.float32),
    "labels": np.zeros(4, np.int64),
    "ids": IDS,
}


def test_arrays_are_read_as_written_and_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_arrays(tmp_path / name, ARRAYS)
    arrays = read_arrays(tmp_path / "a", "positions", POSITIONS)
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_arrays_named_in_the_forms_are_read(tmp_path):
    write_arrays(tmp_path / "a", ARRAYS)
    forms = {"labels": Form("i"), "clusters": Form("i", needed=False)}
    assert read_arrays(tmp_path / "a", "labels", forms).keys() == {"labels"}


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "2 bytes", "half", "text", "other arrays", "one array", "pipe"]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    file = tmp_path / "train.npz"
    if damage == "other arrays":
        write_arrays(file, {"labels": ARRAYS["labels"]})
    elif damage == "one array":
        with file.open("wb") as opened:
            np.save(opened, ARRAYS["labels"])
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage != "missing":
        write_arrays(file, ARRAYS)
        data = file.read_bytes()
        file.write_bytes(
            {"empty": b"", "2 bytes": b"PK", "half": data[: len(data) // 2], "text": b"no arrays"}[
                damage
            ]
        )
    with pytest.raises(UserError, match=r"train\.npz is not a complete file of positions"):
        read_arrays(file, "positions", POSITIONS)


@pytest.mark.parametrize(
    ("forms", "arrays", "words"),
    [
        (POSITIONS, {**ARRAYS, "positions": np.zeros(3)}, r"positions is float64 \[3\]"),
        (POSITIONS, {**ARRAYS, "labels": np.zeros((2, 2), np.int64)}, r"labels is int64 \[2, 2\]"),
        (SCORES, {**OF_SCORES, "values": np.zeros(3)}, "numbers of rows: 4, 3"),
        (SCORES, {**OF_SCORES, "ids": np.zeros(4)}, r"ids is float64 \[4\]"),
        (SCORES, {**OF_SCORES, "values": np.array(["x"] * 4)}, r"values is <U1 \[4\]"),
        (SCORES, {**OF_SCORES, "clusters": np.zeros(4)}, r"clusters is float64 \[4\]"),
        (FEATURES, {**OF_FEATURES, "features": np.zeros(4)}, r"features is float64 \[4\]"),
        (FEATURES, {**OF_FEATURES, "labels": np.zeros(3, np.int8)}, "rows"),
        (FEATURES, {**OF_FEATURES, "probs": np.zeros((3, 2))}, "rows"),
        (FEATURES, {**OF_FEATURES, "ids": np.array(5, np.uint64)}, r"ids is uint64 \[\]"),
    ],
)
def test_arrays_of_another_dtype_or_shape_are_refused(forms, arrays, words, tmp_path):
    write_arrays(tmp_path / "a.npz", arrays)
    with pytest.raises(UserError, match=words):
        read_arrays(tmp_path / "a.npz", "numbers", forms)
