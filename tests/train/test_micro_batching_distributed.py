"""A batch that no longer fits in one of two processes: that one says so, and the next try goes in more parts, in both."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.train import micro_batching
from harness.train.step import TrainStep
from tests.helpers.tiny_stages import write_colours
from tests.train.test_distributed import Group, make_stage, metrics_of, run_worker

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


def run_where_memory_gets_short(folder: Path, data: Path, *more: str) -> None:
    """In a process of a group: the second can hold but 3 images once the first step is over; its part of a batch are 5."""
    original = TrainStep._forward

    def forward(self: TrainStep, images: Tensor, labels: Tensor, **how: Any) -> Tensor:
        if os.environ["RANK"] == "1" and len(images) > 3 and (folder / "step1").exists():
            raise torch.OutOfMemoryError("CUDA out of micro_batching.")
        return original(self, images, labels, **how)

    TrainStep._forward = forward
    run_worker(folder, data, 0.0, *more)


def test_one_process_that_runs_out_of_memory_has_all_try_again_in_more_parts(tmp_path):
    folder, answers = (
        make_stage(tmp_path, write_colours(tmp_path), accumulate="auto"),
        tmp_path / "answers",
    )
    assert Group(
        run_where_memory_gets_short, folder, tmp_path, "--answers", str(answers)
    ).codes() == [1, 1]
    causes = [json.loads((answers / f"{rank}.json").read_text())["cause"] for rank in range(2)]
    assert causes == ["lost", "out_of_memory"] and not (folder / "error.txt").exists()
    assert json.loads((folder / micro_batching.FILE_NAME).read_text()) == {"at_least": 2}
    assert Group(
        run_where_memory_gets_short, folder, tmp_path, "--answers", str(answers)
    ).codes() == [0, 0]
    assert metrics_of(folder)["num_parts"] == 2 and metrics_of(folder)["num_processes"] == 2
