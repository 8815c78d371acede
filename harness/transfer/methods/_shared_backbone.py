"""Train several heads at once, on one forward pass of a backbone with fixed weights.

The backbone's BatchNorm statistics may change: they depend on the images, not on the heads.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.config.grid import Trial
from harness.modeling.classifier import Classifier
from harness.modeling.precision import autocast
from harness.train.divergence import LossWatch
from harness.train.learner import Totals
from harness.transfer.method import TransferSetup
from harness.transfer.methods._head_stack import HeadStack
from harness.transfer.methods._network import set_bn_momentum, train_mode
from harness.transfer.methods.fixed.settings import FixedSettings


class SharedBackbone:
    """Learner with one backbone, and one head per trial (point of the grid).

    The heads differ in learning rate and weight decay. `harness.train.learner.Learner` describes
    the methods.
    """

    def __init__(self, setup: TransferSetup, trials: Sequence[Trial]) -> None:
        self._setup = setup
        self._model = setup.load().eval()
        self._model.requires_grad_(False)
        if setup.bn_stats == "update":
            assert isinstance(setup.settings, FixedSettings)
            set_bn_momentum(self._model, setup.settings.bn_momentum, setup.steps_per_epoch)
            train_mode(self._model, setup.bn_stats)
        self._trials = tuple(trials)
        self._heads = HeadStack(
            self._model.head, [trial.settings.optimizer for trial in self._trials]
        )
        self._losses = torch.zeros(len(self._heads), dtype=torch.float64, device=setup.device)
        self._num_correct = torch.zeros(len(self._heads), dtype=torch.int64, device=setup.device)
        self._num_images = 0
        self._watch = LossWatch(setup.device)  # watches the head with the lowest loss

    @property
    def peak_lr(self) -> float:
        return min(trial.lr for trial in self._trials)

    def set_rate(self, fraction: float) -> None:
        self._heads.set_rate(fraction)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        timer, smoothing = self._setup.timer, self._setup.settings.label_smoothing
        with timer.span("forward"):
            with torch.no_grad(), autocast(self._setup.precision, self._setup.device, self._model):
                features = self._model.features(images)
            features = features.float()
        with timer.span("backward"):  # includes the heads' forward passes and updates
            losses, num_correct = self._heads.step(features, labels, smoothing)
            self._losses += losses * len(labels)
            self._num_correct += num_correct
            self._watch.add(self._losses.nan_to_num(nan=torch.inf, posinf=torch.inf).min())
        self._num_images += len(labels)

    def first_bad_step(self) -> int | None:
        """Return the step in which the last head diverged; None if some head has not diverged."""
        return self._watch.first_bad()

    def totals(self) -> Totals:
        """Return the totals of the head with the lowest loss, and reset them.

        A mean over all heads would say little, because heads with too high a learning rate may
        diverge.
        """
        losses = (self._losses / self._num_images).nan_to_num(nan=torch.inf, posinf=torch.inf)
        best = int(losses.argmin())
        totals: Totals = {
            "loss": float(losses[best]),
            "top1": int(self._num_correct[best]) / self._num_images,
            "num_images": self._num_images,
            "zero_gradients": 0,
        }
        self._losses.zero_()
        self._num_correct.zero_()
        self._num_images = 0
        self._watch.clear()
        return totals

    def state_dict(self) -> dict[str, Any]:
        moving = self._setup.bn_stats == "update"
        return {
            "statistics": dict(self._model.backbone.named_buffers()) if moving else {},
            "heads": self._heads.state_dict(),
            "losses": self._losses,
            "num_correct": self._num_correct,
            "num_images": self._num_images,
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, statistic in state["statistics"].items():
            self._model.backbone.get_buffer(name).copy_(statistic)
        self._heads.load_state_dict(state["heads"])
        self._losses.copy_(state["losses"])
        self._num_correct.copy_(state["num_correct"])
        self._num_images = state["num_images"]
        self._watch.load_state_dict(state["watch"])

    def candidates(self) -> list[tuple[Trial, Classifier]]:
        """Return a model for each trial whose head has not diverged. Models share the backbone."""
        models = []
        for index, trial in enumerate(self._trials):
            head = self._heads.head(index)
            if all(torch.isfinite(parameter).all() for parameter in head.parameters()):
                model = copy.copy(self._model)
                model._modules = {**self._model._modules, "head": head}
                models.append((trial, model))
        return models
