"""Results are written completely or not at all; files that are no valid result are refused."""

import json

import pytest

from harness.runner.result import Result, load, save
from harness.system.atomic_write import write_atomically
from writers.errors import UserError

RESULT = Result(
    kind="rank",
    key="0" * 20,
    name="rank",
    axes={},
    config={},
    needs={},
    metrics={"top1": 0.1 + 0.2},
    environment={},
    started_at="2026-01-01T00:00:00+00:00",
    wall_s=1.5,
)


def test_a_saved_result_loads_unchanged(tmp_path):
    folder = tmp_path / "new" / RESULT.key
    save(RESULT, folder)
    assert load(folder) == RESULT
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_the_result_of_another_stage_is_refused(tmp_path):
    save(RESULT, tmp_path / "another")
    with pytest.raises(UserError, match="result of another stage"):
        load(tmp_path / "another")


def test_a_missing_file_is_no_result(tmp_path):
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"schema_version": 0}), RESULT.model_dump_json()[:-20]]
)
def test_a_damaged_or_foreign_record_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json"):
        load(tmp_path)


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(RESULT.model_copy(update={"metrics": {"loss": float("nan")}}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.system.atomic_write.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space") as refused:
        write_atomically(path, b"new")
    assert refused.value.filename == str(path), "the message must name the full disk"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
