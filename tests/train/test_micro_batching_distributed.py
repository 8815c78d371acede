"""If a batch stops fitting on one of two ranks, both retry with more micro-batches."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.train import micro_batching
from harness.train.step import TrainStep
from tests.helpers.forked_ranks import ForkedRanks, make_stage, metrics_of, run_worker
from tests.helpers.tiny_stages import write_colors


def run_with_less_memory_on_rank_1(folder: Path, data: Path, *more: str) -> None:
    """Run a worker. After the first step, 3 images fit on rank 1, which has 5 of each batch."""
    original = TrainStep._forward

    def forward(self: TrainStep, images: Tensor, labels: Tensor, **how: Any) -> Tensor:
        if os.environ["RANK"] == "1" and len(images) > 3 and (folder / "step1").exists():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, images, labels, **how)

    TrainStep._forward = forward
    run_worker(folder, data, 0.0, *more)


def test_out_of_memory_on_one_rank_makes_both_retry_with_more_micro_batches(tmp_path):
    folder = make_stage(tmp_path, write_colors(tmp_path), accumulate="auto")
    answers, answers_of_retry = tmp_path / "answers", tmp_path / "answers_of_retry"
    answers.mkdir()  # The launcher does this, too: ranks exchange an address through a file in it.
    answers_of_retry.mkdir()
    assert ForkedRanks(
        run_with_less_memory_on_rank_1, folder, tmp_path, "--answers", str(answers)
    ).codes() == [1, 1]
    causes = [json.loads((answers / f"{rank}.json").read_text())["cause"] for rank in range(2)]
    assert causes == ["lost", "out_of_memory"] and not (folder / "error.txt").exists()
    assert json.loads((folder / micro_batching.FILE_NAME).read_text()) == {"at_least": 2}
    assert ForkedRanks(
        run_with_less_memory_on_rank_1, folder, tmp_path, "--answers", str(answers_of_retry)
    ).codes() == [0, 0]
    assert metrics_of(folder)["num_parts"] == 2 and metrics_of(folder)["num_processes"] == 2
