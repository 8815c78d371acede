"""Checkpoints: atomic writes, two files kept, damaged files skipped, no code unpickled."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.train import checkpoint
from writers.errors import UserError


def state(number: int) -> dict[str, object]:
    return {
        "weights": torch.full((50,), float(number)),
        "records": [{"epoch": number, "lr": 0.5}],
        "scaler": {},
    }


def test_latest_returns_the_newest_and_two_are_kept(tmp_path):
    folder = tmp_path / "deep" / "checkpoints"
    assert checkpoint.latest(folder) == checkpoint.LoadedCheckpoint()
    for number in (1, 2, 9, 10, 11):
        path = checkpoint.save(folder, number, state(number))
        loaded = checkpoint.latest(folder)
        assert loaded.path == path and loaded.damaged == ()
        torch.testing.assert_close(loaded.state, state(number), rtol=0, atol=0)
    assert len(list(folder.iterdir())) == 2
    checkpoint.clear(folder)
    assert checkpoint.latest(folder) == checkpoint.LoadedCheckpoint() and not list(folder.iterdir())
    checkpoint.clear(tmp_path / "never")


def truncate(data: bytes, length: int) -> bytes:
    return data[:length]


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [partial(truncate, length=length) for length in (0, 1, 100, 1500)]
    + [partial(flip, place=place) for place in (0, 31, 32, 700, -2)],
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(tmp_path, capsys, damage):
    for number in (3, 4):
        checkpoint.save(tmp_path, number, state(number))
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    loaded = checkpoint.latest(tmp_path)
    assert loaded.state is not None and loaded.state["weights"][0] == 3
    assert len(loaded.damaged) == 1 and newest.name in loaded.damaged[0]
    assert newest.name in capsys.readouterr().err
    next(path for path in tmp_path.iterdir() if path != newest).write_bytes(b"")
    none = checkpoint.latest(tmp_path)
    assert none.state is None and len(none.damaged) == 2
    assert all(line.endswith("is skipped.") for line in none.damaged)


def test_any_changed_byte_is_detected(tmp_path):
    """torch.save stores raw weights, so most flipped bits are noticed only by a checksum."""
    path = checkpoint.save(tmp_path, 1, {"weights": torch.arange(3.0)})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(flip(whole, place) if place < len(whole) - 1 else whole[:-1])
        assert checkpoint.latest(tmp_path).state is None, place


def test_a_failed_write_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 3, state(3))
    assert len(list(tmp_path.iterdir())) == 2
    loaded = checkpoint.latest(tmp_path)
    assert loaded.state is not None and loaded.state["records"][0]["epoch"] == 2


def draw() -> tuple[float, ...]:
    return (
        float(torch.rand(())),
        float(torch.randn(())),
        float(np.random.standard_normal()),  # noqa: NPY002
        random.random(),
    )


def test_restored_generators_continue_their_sequences(tmp_path):
    draw()  # numpy draws normal numbers in pairs, and keeps the second one
    checkpoint.save(tmp_path, 1, {"random": checkpoint.random_state("cpu")})
    expected = [draw() for _ in range(3)]
    saved = checkpoint.latest(tmp_path).state
    assert saved is not None
    checkpoint.set_random_state(saved["random"], "cpu")
    assert [draw() for _ in range(3)] == expected


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(("written_on", "device"), [("cuda", "cpu"), ("cpu", "cuda:0")])
def test_a_checkpoint_of_another_type_of_device_is_refused(tmp_path, written_on, device):
    """torch's generators of a CPU and of a GPU do not take each other's states."""
    generator = torch.zeros(16, dtype=torch.uint8) if written_on == "cuda" else None
    random_state = checkpoint.random_state("cpu") | {"cuda": generator}
    checkpoint.save(tmp_path, 1, {"learner": {}, "random": random_state})
    with pytest.raises(
        UserError, match=f"(?s)was written on {written_on}, .* --device {written_on}"
    ):
        checkpoint.latest_for_rank(checkpoint.Checkpoints(tmp_path, device))
    same = checkpoint.Checkpoints(tmp_path, "cuda:1" if written_on == "cuda" else "cpu")
    assert checkpoint.latest_for_rank(same).state is not None


def test_loading_runs_no_code_of_the_file(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, {"weights": Evil(tmp_path / "touched")})
    loaded = checkpoint.latest(tmp_path)
    assert loaded.path is not None
    assert loaded.path.name == "000000001.pt"
    assert not (tmp_path / "touched").exists()


def test_other_files_are_not_touched(tmp_path):
    (tmp_path / "model.pt").write_text("mine")
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
