"""One pass over a split, clean or attacked, seen from several sides at once."""

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
from harness.train.attack import pgd, restarted
from harness.train.average_precision import MultiLabelCounts
from harness.train.metrics import Counts
from loaders.backend import Loader
from writers.errors import UserError


@dataclass(frozen=True)
class View:
    """Which images of a pass count, and among which classes the model decides. None: all.

    groups: for each class the coarser one that it belongs to; answers and labels are these. A coarse class has the summed
    probability of its classes, or (by: max) the answer is the coarse class of the likeliest one.
    """

    labels: tuple[int, ...] | None = None
    logits: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    by: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        if self.logits is not None:
            assert self.labels is not None and set(self.labels) <= set(self.logits), (
                "a true class that cannot be chosen"
            )
        assert self.groups is None or self.labels is None, "a view of some classes, and coarser"


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
    """Count every image of the loader's epoch 0 once, in each of the views; all processes, the images of all of them.

    With an attack, images are first moved within `eps` to raise the loss over all logits; an image that is in no view is
    attacked none the less, so that its batch is the same in every view. The model's modes are as before.
    zero_gradients: an int64 tensor that the attack's zero gradients are added to: images that looked robust and did not move.
    after_batch: is told how many images of this process are done.
    Raises UserError where images have many labels: `score` is for those.
    """
    if loader.multi_label:
        raise UserError(
            f"{loader.plan.beton}: an image there has many labels, and only one can be seen from several sides.",
            "Such a dataset can be a target, and no source.",
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
    for logits, labels in _answers(
        model, loader, device, precision, attack, eps, group, zero_gradients
    ):
        num_images += len(labels)
        for name, count in counts.items():
            if name in groups:
                count.add(
                    coarser(logits, groups[name], count.num_classes, views[name].by),
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


def coarser(logits: Tensor, groups: Tensor, num_groups: int, by: Literal["sum", "max"]) -> Tensor:
    """[B, K] logits of classes to [B, G] of the groups that they belong to (int64 [K]); each group has a class.

    sum: the logit of the summed probability. max: the highest of the group's, whose argmax is the argmax's group.
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
    """The scores of every image of the loader's epoch 0, clean, whether an image has one label or many."""
    return count(
        model, loader, device=device, precision=precision, num_classes=num_classes
    ).scores()


def count(
    model: nn.Module, loader: Loader, *, device: str, precision: Precision, num_classes: int
) -> Counts | MultiLabelCounts:
    """What `score` is made of, with the predictions."""
    counts = (
        MultiLabelCounts()
        if loader.multi_label
        else Counts(num_classes, device, keep_predictions=True)
    )
    for logits, labels in _answers(model, loader, device, precision):
        counts.add(logits, labels)
    return counts


def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: AttackSettings,
    eps: float,
    precision: Precision,
    generator: torch.Generator,
    zero_gradients: Tensor | None = None,
) -> Tensor:
    """The images that a model is evaluated on under an attack: floats in [0, 1], of a loader's uint8 [B, 3, R, R]."""
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
    return restarted(
        once,
        model,
        labels,
        attack.restarts if isinstance(attack, EvaluationAttack) else 1,
        precision,
    )


def _answers(
    model: nn.Module,
    loader: Loader,
    device: str,
    precision: Precision,
    attack: AttackSettings | None = None,
    eps: float = 0.0,
    group: ProcessGroup = SINGLE_PROCESS,
    zero_gradients: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of each batch. The labels are valid until the next batch."""
    generator = torch.Generator(device).manual_seed(
        group.rank
    )  # of random starts: the same points every time
    num_images = 0
    with eval_mode(model), loader.epoch(0) as batches:
        for images, labels in batches:
            num_images += len(labels)
            if attack is not None:
                images = attacked(
                    model, images, labels, attack, eps, precision, generator, zero_gradients
                )
            with torch.inference_mode(), autocast(precision, device, model):
                logits = model(images)
            yield logits, labels
    assert sum(group.all_gather(num_images)) == loader.num_samples, (
        "a plan for training (drop_last) was evaluated"
    )
