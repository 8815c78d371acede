"""One stage in two processes: exact resume, equal evaluation, and errors that end both."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.matrix.stage import key_of
from harness.matrix.stage_kind import find
from harness.modeling import classifier
from harness.runner import result
from harness.system.atomic_write import write_json
from tests.helpers.execution import wait_for
from tests.helpers.forked_ranks import ForkedRanks, make_stage, metrics_of, run_worker
from tests.helpers.tiny_stages import SPLITS, as_result


@pytest.fixture
def data(root) -> Path:
    return root / "data"


def test_a_stage_in_two_processes_resumes_exactly(data, source, tmp_path):
    whole = make_stage(tmp_path / "whole", source)
    stopped = make_stage(tmp_path / "stopped", source)
    assert ForkedRanks(run_worker, whole, data).codes() == [0, 0]
    group = ForkedRanks(run_worker, stopped, data, 0.3)
    wait_for((stopped / "step1").exists)
    os.kill(group.processes[1].pid, signal.SIGTERM)  # rank 0 writes the checkpoint
    assert group.codes() == [75, 75]
    assert list((stopped / "checkpoints").glob("*.pt")) and not (stopped / "error.txt").exists()
    assert ForkedRanks(run_worker, stopped, data).codes() == [0, 0]
    assert metrics_of(stopped) == metrics_of(whole)
    weights = [
        torch.load(folder / "model.pt", weights_only=True)["state_dict"]
        for folder in (whole, stopped)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    stage_result = result.load(stopped)
    assert stage_result.metrics["num_processes"] == 2
    assert stage_result.metrics["val"]["num_images"] == 3 * SPLITS["val"]
    assert stage_result.timing["num_restarts"] == 1
    assert "6 of the 11 images" in (whole / "log.txt").read_text()
    assert "5 of the 11 images" in (whole / "log.rank1.txt").read_text()


def make_evaluation(runs: Path, written: result.Result, batch_size: int) -> Path:
    """Create a pretrain stage with a saved model and a stage that evaluates it.

    Returns the folder of the evaluate stage. Each call saves the same weights.
    """
    torch.manual_seed(0)
    trained = make_stage(runs, written)
    classifier.save(
        trained / "model.pt",
        classifier.build("resnet10", 3, channels=(16, 16, 16, 16)),
        {"arch": "resnet10", "channels": [16, 16, 16, 16]},
    )
    result.save(as_result("pretrain", {}).model_copy(update={"key": trained.name}), trained)
    data_need = {"kind": "write", "key": written.key}
    needs = {
        "model": {"kind": "pretrain", "key": trained.name},
        "data": data_need,
        "common_0": data_need,
    }
    config = {
        "settings": {"batch_size": batch_size},
        "eps": 0.5,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "float32",
        "flip_tta": False,
    }
    key = key_of(
        "evaluate",
        find("evaluate").version,
        config,
        {role: need["key"] for role, need in needs.items()},
    )
    folder = runs / "stages" / "evaluate" / key
    write_json(
        folder / "stage.json",
        {
            "kind": "evaluate",
            "key": key,
            "name": "evaluate",
            "axes": {},
            "needs": needs,
            "config": config,
        },
    )
    return folder


def test_two_processes_stop_evaluating_after_the_same_batch(data, source, tmp_path):
    folder = make_evaluation(tmp_path, source, 3)
    group = ForkedRanks(run_worker, folder, data, 0.3)
    wait_for((folder / "step1").exists)
    os.kill(group.processes[1].pid, signal.SIGTERM)  # rank 0 would write the result
    assert group.codes() == [75, 75]
    assert result.load(folder) is None and not (folder / "error.txt").exists()


@pytest.mark.parametrize("batch_size", [7, 23])
def test_two_processes_evaluate_as_one_process_does(batch_size, data, source, tmp_path):
    """Two ranks share the 24 images unevenly.

    Batches of 7 give them 4 + 3 images, and 2 + 1 of the last batch. With batches of 23, the last
    batch has one image, so rank 1 has one batch less.
    """
    one, two = (make_evaluation(tmp_path / name, source, batch_size) for name in ("one", "two"))
    assert ForkedRanks(run_worker, one, data, num_processes=1).codes() == [0]
    assert ForkedRanks(run_worker, two, data).codes() == [0, 0]
    ours, theirs = (result.load(folder) for folder in (two, one))
    assert ours.metrics["clean"]["own"]["num_images"] == 3 * SPLITS["val"]
    for name in ("clean", "adversarial"):
        scores, expected = ours.metrics[name]["own"], theirs.metrics[name]["own"]
        assert scores == pytest.approx(expected, rel=1e-6)
        assert scores["num_correct"] == expected["num_correct"]
        assert ours.metrics["per_class"][name] == theirs.metrics["per_class"][name]
    arrays, expected = (np.load(folder / ours.metrics["predictions"]) for folder in (two, one))
    assert arrays.files == expected.files
    assert all((arrays[name] == expected[name]).all() for name in arrays.files)


@pytest.mark.parametrize("victim", [0, 1])
def test_if_a_process_is_killed_the_other_ends_with_an_error(victim, data, source, tmp_path):
    folder = make_stage(tmp_path, source)
    group = ForkedRanks(run_worker, folder, data, 0.3)
    wait_for((folder / f"step{victim}").exists)
    group.processes[victim].kill()
    codes = group.codes()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    assert "lost another one" in (folder / "error.txt").read_text() and result.load(folder) is None


def test_a_user_error_is_reported_once_and_ends_both_processes(data, source, tmp_path):
    folder = make_stage(tmp_path, source, sync_batch_norm=True)
    assert ForkedRanks(run_worker, folder, data).codes() == [1, 1]
    assert "sync_batch_norm needs GPUs" in (folder / "error.txt").read_text()
