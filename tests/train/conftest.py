"""Fixtures of the training tests: networks and images to attack, graphs of torch.compile."""

import pytest
import torch
from torch import Tensor, nn

from harness.train import compilation
from tests.helpers.attacked_networks import build_network, make_batch
from tests.helpers.smooth_networks import make_float64


@pytest.fixture
def net() -> nn.Module:
    """A network to attack."""
    return build_network(smooth=False)


@pytest.fixture
def smooth_net() -> nn.Module:
    """A network for comparisons with an independent implementation."""
    return make_float64(build_network(smooth=True))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Images, float32 [6, 3, 24, 24], and labels, int64 [6], for the networks to attack."""
    return make_batch()


@pytest.fixture
def graphs(monkeypatch):
    """List graphs that torch.compile traces; generate no code, which would take a minute."""
    made = []

    def keep(graph, inputs):
        made.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: compile_(model, **{**options, "backend": keep})
    )
    yield made
    compilation.reset()
