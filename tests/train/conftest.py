"""Fixtures of the tests of training."""

import pytest
import torch

from harness.train import compilation


@pytest.fixture
def graphs(monkeypatch):
    """Graphs traced by torch.compile, without the minute that code generation takes."""
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
