"""Checkpoints: whole or absent, two kept, a damaged one passed over, nothing unpickled."""

from pathlib import Path

import pytest
import torch

from harness import checkpoint


def state(number: int) -> dict[str, object]:
    return {"weights": torch.full((50,), float(number)), "records": [{"epoch": number, "lr": 0.5}], "scaler": {}}


def test_gives_back_the_newest_and_keeps_two(tmp_path):
    folder = tmp_path / "deep" / "checkpoints"
    assert checkpoint.latest(folder) is None
    for number in (1, 2, 9, 10, 11):
        checkpoint.save(folder, number, state(number))
        found = checkpoint.latest(folder)
        assert found is not None and found[0] == number
        torch.testing.assert_close(found[1], state(number), rtol=0, atol=0)
    assert len(list(folder.iterdir())) == 2
    checkpoint.clear(folder)
    assert checkpoint.latest(folder) is None and not list(folder.iterdir())
    checkpoint.clear(tmp_path / "never")


@pytest.mark.parametrize("kept_bytes", [0, 1, 100, 1500])
def test_a_truncated_one_falls_back_and_is_named(tmp_path, capsys, kept_bytes):
    for number in (3, 4):
        checkpoint.save(tmp_path, number, state(number))
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:kept_bytes])
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[0] == 3 and found[1]["weights"][0] == 3
    assert newest.name in capsys.readouterr().err
    next(path for path in tmp_path.iterdir() if path != newest).write_bytes(b"")
    assert checkpoint.latest(tmp_path) is None


def test_a_write_that_fails_leaves_the_old_ones(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 3, state(3))
    assert len(list(tmp_path.iterdir())) == 2
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[0] == 2


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def test_runs_no_code_of_a_file(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    torch.save({"weights": Evil(tmp_path / "touched")}, tmp_path / max(tmp_path.iterdir()).name.replace("1", "2"))
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[0] == 1 and not (tmp_path / "touched").exists()


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "model.pt").write_text("mine")
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
