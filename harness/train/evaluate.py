"""Evaluate a model in one pass over a split, clean or attacked, under several views at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.matrix.scores import Scores
from harness.modeling.module_modes import eval_mode
from harness.modeling.precision import Precision, autocast
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.train.attack import best_of_restarts, pgd
from harness.train.average_precision import MultiLabelCounts
from harness.train.metrics import Counts
from loaders.backend import Loader
from writers.errors import UserError


@dataclass(frozen=True)
class View:
    """Which images of a pass count, and between which classes the model chooses.

    Attributes:
        labels: Count images of these classes only; None counts all.
        logits: Choose between these classes only; None allows all.
        groups: Coarse class of each class; predictions and labels become coarse classes. None keeps
            the classes.
        by: "sum" adds the probabilities of the classes of a group; "max" predicts the group of the
            most likely class.
    """

    labels: tuple[int, ...] | None = None
    logits: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    by: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        if self.logits is not None:
            assert self.labels is not None and set(self.labels) <= set(self.logits), (
                "the true class must be among the choices"
            )
        assert self.groups is None or self.labels is None, "groups need all classes"


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    device: str,
    precision: Precision,
    num_classes: int,
    views: Mapping[str, View],
    attack: AttackSettings | None = None,
    eps: float = 0.0,
    keep_predictions: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    zero_gradients: Tensor | None = None,
    after_batch: Callable[[int], None] = lambda num_images: None,
) -> dict[str, Counts]:
    """Evaluate all images of the loader's epoch 0 under each view, over all ranks.

    Restores the model's train and evaluation modes.

    Args:
        model: Maps images to logits [B, num_classes].
        loader: Loader of the split.
        device: Device of the model.
        precision: Number format of the passes.
        num_classes: Number of classes.
        views: Name of each view, and the view.
        attack: Attack that raises the loss over all logits, or None. It also attacks images that no
            view counts, so that batches do not depend on views.
        eps: Radius of the attack in units of [0, 1] pixels.
        keep_predictions: True for `Counts.predictions`.
        group: Ranks that evaluate together.
        zero_gradients: int64 scalar; the attack's number of zero gradients is added to it. Such
            images do not move, and look robust.
        after_batch: Called with the number of images of this rank that are finished.

    Returns:
        Counts by the name of the view, the same on all ranks.

    Raises:
        UserError: images have several labels, which `score` supports.
    """
    if loader.multi_label:
        raise UserError(
            f"{loader.plan.beton}: images have several labels, which views do not support.",
            "Use such a dataset as a target, not as a source.",
        )
    counts = {
        name: Counts(
            max(view.groups) + 1 if view.groups else num_classes,
            device,
            labels=view.labels,
            logits=view.logits,
            keep_predictions=keep_predictions,
        )
        for name, view in views.items()
    }
    groups = {
        name: torch.tensor(view.groups, device=device)
        for name, view in views.items()
        if view.groups
    }
    num_images = 0
    for logits, labels in _logits_of_batches(
        model, loader, device, precision, attack, eps, group, zero_gradients
    ):
        num_images += len(labels)
        for name, count in counts.items():
            if name in groups:
                count.add(
                    group_logits(logits, groups[name], count.num_classes, views[name].by),
                    groups[name][labels],
                )
            else:
                count.add(logits, labels)
        after_batch(num_images)
    for count in counts.values():
        count.all_reduce_(group)
    if zero_gradients is not None:
        group.all_reduce_(zero_gradients)
    return counts


def group_logits(
    logits: Tensor, groups: Tensor, num_groups: int, by: Literal["sum", "max"]
) -> Tensor:
    """Compute logits [B, num_groups] of groups of classes.

    Args:
        logits: [B, K].
        groups: int64 [K], the group of each class. No group is empty.
        num_groups: Number of groups.
        by: "sum" returns the logit of the summed probability; "max" the highest logit of a group.
    """
    logits = logits.float()
    index = groups.expand_as(logits)
    highest = logits.new_full((len(logits), num_groups), -torch.inf).scatter_reduce_(
        1, index, logits, "amax"
    )
    if by == "max":
        return highest
    return (
        highest
        + torch.zeros_like(highest)
        .scatter_add_(1, index, (logits - highest.gather(1, index)).exp())
        .log()
    )


def score(
    model: nn.Module, loader: Loader, *, device: str, precision: Precision, num_classes: int
) -> Scores:
    """Score all images of the loader's epoch 0 without an attack.

    Supports images with one label and with several. See `Counts.scores` and
    `MultiLabelCounts.scores`.
    """
    return count(
        model, loader, device=device, precision=precision, num_classes=num_classes
    ).scores()


def count(
    model: nn.Module, loader: Loader, *, device: str, precision: Precision, num_classes: int
) -> Counts | MultiLabelCounts:
    """Return the counts that `score` reads, with predictions."""
    counts = (
        MultiLabelCounts()
        if loader.multi_label
        else Counts(num_classes, device, keep_predictions=True)
    )
    for logits, labels in _logits_of_batches(model, loader, device, precision):
        counts.add(logits, labels)
    return counts


def attack_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: AttackSettings,
    eps: float,
    precision: Precision,
    generator: torch.Generator,
    zero_gradients: Tensor | None = None,
) -> Tensor:
    """Attack a batch for evaluation, with random restarts if the settings ask for them.

    Args:
        model: The attacked model.
        images: uint8 [B, 3, R, R].
        labels: int64 [B] or int8 [B, K].
        attack: Settings of the attack.
        eps: Radius in units of [0, 1] pixels.
        precision: Number format of the passes.
        generator: Source of random starts, on the device of the images.
        zero_gradients: int64 scalar; the number of zero gradients is added to it.

    Returns:
        float32 [B, 3, R, R] in [0, 1].
    """
    once = partial(
        pgd,
        model,
        images.float().div_(255),
        labels,
        norm=attack.norm,
        eps=eps,
        steps=attack.steps,
        step_size=attack.step_length(eps),
        random_start=attack.random_start,
        best_iterate=attack.best_iterate,
        generator=generator,
        precision=precision,
        zero_gradients=zero_gradients,
    )
    return best_of_restarts(
        once,
        model,
        labels,
        attack.restarts if isinstance(attack, EvaluationAttack) else 1,
        precision,
    )


def _logits_of_batches(
    model: nn.Module,
    loader: Loader,
    device: str,
    precision: Precision,
    attack: AttackSettings | None = None,
    eps: float = 0.0,
    group: ProcessGroup = SINGLE_PROCESS,
    zero_gradients: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of each batch. The labels are valid until the next batch."""
    # The same random starts in each evaluation.
    generator = torch.Generator(device).manual_seed(group.rank)
    num_images = 0
    with eval_mode(model), loader.epoch(0) as batches:
        for images, labels in batches:
            num_images += len(labels)
            if attack is not None:
                images = attack_images(
                    model, images, labels, attack, eps, precision, generator, zero_gradients
                )
            with torch.inference_mode(), autocast(precision, device, model):
                logits = model(images)
            yield logits, labels
    assert sum(group.all_gather(num_images)) == loader.num_samples, (
        "the loader's plan leaves images out (drop_last)"
    )
