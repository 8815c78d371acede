"""Set train and evaluation modes temporarily, and restore the mode of each module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside the block, and then restore each module's mode.

    Calling `model.train()` afterwards would not do: it would put a BatchNorm that a method has
    frozen into training mode, and its statistics would change.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def cudnn_benchmark(device: str) -> Iterator[None]:
    """Enable cudnn.benchmark inside the block. It helps if batch shapes are constant."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or torch.device(device).type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def local_batch_norm(model: nn.Module) -> Iterator[None]:
    """Let SyncBatchNorm use the statistics of this process alone inside the block."""
    synchronized = [
        (module, module.process_group)
        for module in model.modules()
        if isinstance(module, nn.SyncBatchNorm)
    ]
    try:
        for module, _ in synchronized:
            # A module that is in no group calls no other process.
            module.process_group = torch.distributed.GroupMember.NON_GROUP_MEMBER
        yield
    finally:
        for module, process_group in synchronized:
            module.process_group = process_group


@contextmanager
def attack_mode(model: nn.Module, batch_norm: Literal["eval", "train"]) -> Iterator[None]:
    """Set the modules' modes for an attack inside the block.

    With `train`, each BatchNorm in training mode normalizes by the batch's statistics, but does not
    update its running statistics.
    """
    trained = [
        module
        for module in model.modules()
        if batch_norm == "train"
        and isinstance(module, BatchNorm)
        and module.training
        and module.track_running_stats
    ]
    with eval_mode(model):
        try:
            for module in trained:
                module.training, module.track_running_stats = True, False
            yield
        finally:
            for module in trained:
                module.track_running_stats = True
