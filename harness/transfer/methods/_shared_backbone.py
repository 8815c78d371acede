"""Heads that train at once, on one forward pass of a backbone with fixed weights.

The backbone's BatchNorm statistics may move: they depend on the images only, not on the heads.
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
from harness.train.loss import mean_loss, num_correct
from harness.train.optimizer import make_sgd, set_lr
from harness.transfer.method import TransferSetup
from harness.transfer.methods._network import set_bn_momentum, train_mode
from harness.transfer.methods.fixed.settings import FixedSettings


class SharedBackbone:
    """One backbone, and a head with its own optimizer for each trial."""

    def __init__(self, setup: TransferSetup, trials: Sequence[Trial]) -> None:
        self._setup = setup
        self._model = setup.load().eval()
        self._model.requires_grad_(False)
        if setup.bn_stats == "update":
            assert isinstance(setup.settings, FixedSettings)
            set_bn_momentum(self._model, setup.settings.bn_momentum, setup.steps_per_epoch)
            train_mode(self._model, setup.bn_stats)
        self._heads = {
            trial: copy.deepcopy(self._model.head).requires_grad_(True) for trial in trials
        }
        self._optimizers = {
            trial: make_sgd(head, trial.settings.optimizer, trial.lr)
            for trial, head in self._heads.items()
        }
        self._losses = torch.zeros(len(self._heads), dtype=torch.float64, device=setup.device)
        self._num_correct = torch.zeros(len(self._heads), dtype=torch.int64, device=setup.device)
        self._num_images = 0
        self._watch = LossWatch(setup.device)  # of the head with the lowest loss

    @property
    def peak_lr(self) -> float:
        return min(trial.lr for trial in self._heads)

    def set_rate(self, fraction: float) -> None:
        for trial, optimizer in self._optimizers.items():
            set_lr(optimizer, fraction * trial.lr)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        timer, smoothing = self._setup.timer, self._setup.settings.label_smoothing
        with timer.span("forward"):
            with torch.no_grad(), autocast(self._setup.precision, self._setup.device, self._model):
                features = self._model.features(images)
            features = features.float()
        with timer.span("backward"):  # includes the forward pass of the heads
            for number, head in enumerate(self._heads.values()):
                logits = head(features)
                loss = mean_loss(logits, labels, smoothing)
                loss.backward()
                self._losses[number] += loss.detach() * len(labels)
                self._num_correct[number] += num_correct(logits.detach(), labels)
            self._watch.add(self._losses.nan_to_num(nan=torch.inf, posinf=torch.inf).min())
        self._num_images += len(labels)
        with timer.span("optimizer"):
            for optimizer in self._optimizers.values():
                optimizer.step()
                optimizer.zero_grad()

    def first_bad_step(self) -> int | None:
        """Return the step at which the last head diverged; None while one head has not."""
        return self._watch.first_bad()

    def totals(self) -> Totals:
        """Return the totals of the head with the lowest loss, and reset them.

        A learning rate that is too high must not hide that the other heads learn.
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
            "heads": [head.state_dict() for head in self._heads.values()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers.values()],
            "losses": self._losses,
            "num_correct": self._num_correct,
            "num_images": self._num_images,
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, statistic in state["statistics"].items():
            self._model.backbone.get_buffer(name).copy_(statistic)
        for head, saved in zip(self._heads.values(), state["heads"], strict=True):
            head.load_state_dict(saved)
        for optimizer, saved in zip(self._optimizers.values(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._losses.copy_(state["losses"])
        self._num_correct.copy_(state["num_correct"])
        self._num_images = state["num_images"]
        self._watch.load_state_dict(state["watch"])

    def candidates(self) -> list[tuple[Trial, Classifier]]:
        """Return a model for each trial; they share the backbone. Diverged heads are left out."""
        models = []
        for trial, head in self._heads.items():
            if all(torch.isfinite(parameter).all() for parameter in head.parameters()):
                model = copy.copy(self._model)
                model._modules = {**self._model._modules, "head": head}
                models.append((trial, model))
        return models
