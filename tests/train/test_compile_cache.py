"""A second process reads the compiled step from torch's cache on disk.

pytest tests/train/test_compile_cache.py --compiler
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

SCRIPT = """
import json

import torch
from torch import nn
from torch._dynamo.utils import counters

import harness.runner.worker
from harness.profiling.timer import Timer
from harness.train.step import StepConfig, make_step


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.norm(self.convolution(images.float() / 255)).relu().mean((2, 3)))


torch.set_num_threads(1)
torch.manual_seed(0)
model = Tiny()
step = make_step(model, torch.optim.SGD(model.parameters(), 0.1), StepConfig(0.1), Timer("cpu"))
step.compile("compiled", 8)
for _ in range(2):
    step.train_batch(torch.randint(256, (8, 3, 12, 12), dtype=torch.uint8), torch.arange(8) % 3)
print(json.dumps({"hits": counters["inductor"]["fxgraph_cache_hit"], "misses": counters["inductor"]["fxgraph_cache_miss"],
                  "loss": step.totals()["loss"]}))
"""


def test_a_second_process_uses_the_compile_cache(tmp_path: Path, request: pytest.FixtureRequest):
    if not request.config.getoption("--compiler", None):
        pytest.skip("torch.compile takes half a minute; run with --compiler")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    first, second = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", SCRIPT],
                env=variables,
                check=True,
                text=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for _ in range(2)
    )
    assert first["misses"] == 2 and first["hits"] == 0, (
        "one graph for the forward pass, one for the backward pass"
    )
    assert second["hits"] == 2 and second["misses"] == 0
    assert first["loss"] == second["loss"]
