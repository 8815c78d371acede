"""Evaluate a model in one pass over a split, clean or attacked.

A view selects the images that are scored and the classes that the model may predict. One pass
scores several views.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.matrix.scores import Scores
from harness.modeling.module_modes import cudnn_benchmark, eval_mode
from harness.modeling.precision import Precision, autocast
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.train.autotune import noise_batch
from harness.train.average_precision import MultiLabelCounts
from harness.train.evaluation_attack import AttackPlan, choose_attack_mode
from harness.train.metrics import Counts
from harness.train.records import CompileMeasurement
from loaders.backend import Loader
from writers.errors import UserError


@dataclass(frozen=True)
class View:
    """Selection of the images that are scored and the classes that the model may predict.

    Attributes:
        labels: Classes whose images are scored; None scores all images.
        logits: Classes that the model may predict; None allows all.
        groups: Coarse class of each class. Predictions and labels are mapped to coarse classes;
            None scores the classes themselves.
        by: How to predict a coarse class. "sum" adds the probabilities of its classes; "max" takes
            the coarse class of the most likely class.
    """

    labels: tuple[int, ...] | None = None
    logits: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    by: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        if self.logits is not None:
            assert self.labels is not None and set(self.labels) <= set(self.logits), (
                "each label must be a class that may be predicted"
            )
        assert self.groups is None or self.labels is None, "groups need all classes"

    def restricts(self, num_classes: int) -> bool:
        """Return True if the view scores groups of logits, or fewer than `num_classes` logits."""
        return self.groups is not None or (
            self.logits is not None and len(set(self.logits)) < num_classes
        )


class ScoredLogits(nn.Module):
    """Wrapper of a model that returns only the logits that a view scores; attacks use it."""

    def __init__(self, model: nn.Module, view: View, num_classes: int, device: str) -> None:
        """Wrap a model with `num_classes` logits on `device`."""
        super().__init__()
        self.model, self._by = model, view.by
        self._choices = None if view.groups else torch.tensor(view.logits, device=device)
        # Class -> its index among the scored logits. Classes that are not scored get index 0. Their
        # images are attacked, too, but the view does not score them.
        place = torch.zeros(num_classes, dtype=torch.int64, device=device)
        if view.groups:
            place = torch.tensor(view.groups, device=device)
        else:
            place[self._choices] = torch.arange(len(view.logits or ()), device=device)
        self._place = place
        self._num_groups = max(view.groups) + 1 if view.groups else 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the scored logits, [B, number of classes or groups that the view scores]."""
        logits: Tensor = self.model(images)
        if self._choices is not None:
            return logits.index_select(1, self._choices)
        return group_logits(logits, self._place, self._num_groups, self._by)

    def labels(self, labels: Tensor) -> Tensor:
        """Map int64 labels [B] to their indices among the scored logits."""
        return self._place[labels]


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings of a pass over a split.

    Attributes:
        device: Device of the model.
        precision: Number format of the passes.
        num_classes: Number of classes.
        views: Name -> view.
        attack: Attack that raises the loss; None evaluates clean images. It also attacks images
            that no view scores, so that batches do not depend on views.
        eps: Radius of the attack in units of [0, 1] pixels.
        attacked_logits: "scored" runs an attack on the logits that each view scores; "all" runs one
            attack on all logits for all views.
        compile_mode: Key of `compilation.MODES` for the attack; see `choose_compile_mode`.
        group: Ranks that evaluate together.
    """

    device: str
    precision: Precision
    num_classes: int
    views: Mapping[str, View]
    attack: AttackSettings | None = None
    eps: float = 0.0
    attacked_logits: Literal["scored", "all"] = "scored"
    compile_mode: str = "eager"
    group: ProcessGroup = SINGLE_PROCESS

    def attack_on(self, loader: Loader) -> AttackPlan | None:
        """Return the plan of the attack on the loader's batches; None if there is no attack."""
        if self.attack is None:
            return None
        batch_size = min(
            loader.plan.local_batch_size, -(-loader.num_samples // self.group.world_size)
        )
        return AttackPlan(
            self.attack,
            self.eps,
            self.precision,
            self.device,
            self.compile_mode,
            batch_size,
            self.group.rank,
        )


def evaluate(
    model: nn.Module,
    loader: Loader,
    plan: EvaluationPlan,
    *,
    keep_predictions: bool = False,
    zero_gradients: Tensor | None = None,
    after_batch: Callable[[int], None] = lambda num_images: None,
) -> dict[str, Counts]:
    """Evaluate all images of the loader's epoch 0 under each view, over all ranks.

    Restores the model's train and evaluation modes.

    Args:
        model: Maps images to logits [B, plan.num_classes].
        loader: Loader of the split.
        plan: Views and attack.
        keep_predictions: True keeps the predictions for `Counts.predictions`.
        zero_gradients: int64 scalar, to which the number of zero gradients of all attacks is added.
            An image with a zero gradient does not move, and may look robust.
        after_batch: Called with the number of images that this rank has finished.

    Returns:
        Name of a view -> counts, the same on all ranks.

    Raises:
        UserError: images have several labels; `score` supports them.
        CaptureFailedError: the compile mode captures the attack, and a capture failed.
    """
    if loader.multi_label:
        raise UserError(
            f"{loader.plan.beton}: images have several labels; the evaluation of pretrained models "
            "needs one label per image.",
            "Use such a dataset as a target, not as a source.",
        )
    counts = {
        name: Counts(
            max(view.groups) + 1 if view.groups else plan.num_classes,
            plan.device,
            labels=view.labels,
            logits=view.logits,
            keep_predictions=keep_predictions,
        )
        for name, view in plan.views.items()
    }
    groups = {
        name: torch.tensor(view.groups, device=plan.device)
        for name, view in plan.views.items()
        if view.groups
    }
    targets, target_of = _targets(model, plan)
    num_images = 0
    for batch, labels in _logits_of_batches(
        model,
        loader,
        plan.device,
        plan.precision,
        plan.attack_on(loader),
        plan.group,
        zero_gradients,
        targets,
    ):
        num_images += len(labels)
        for name, count in counts.items():
            logits = batch[target_of[name]]
            if name in groups:
                count.add(
                    group_logits(logits, groups[name], count.num_classes, plan.views[name].by),
                    groups[name][labels],
                )
            else:
                count.add(logits, labels)
        after_batch(num_images)
    for count in counts.values():
        count.all_reduce_(plan.group)
    if zero_gradients is not None:
        plan.group.all_reduce_(zero_gradients)
    return counts


def choose_compile_mode(
    model: nn.Module,
    loader: Loader,
    folder: Path,
    setting: Literal["off", "auto", "on"],
    plan: EvaluationPlan,
) -> CompileMeasurement:
    """Choose the compile mode of an attacked evaluation; see `choose_attack_mode`.

    Args:
        model: Maps images to logits [B, plan.num_classes].
        loader: Loader of the split.
        folder: Folder of the stage, in which the choice of `auto` is recorded.
        setting: `compile` in a recipe.
        plan: Evaluation with an attack. Its compile mode is not used.
    """
    targets, _ = _targets(model, plan)
    attack_plan = plan.attack_on(loader)
    assert attack_plan is not None
    images, labels = noise_batch(
        attack_plan.batch_size, loader.plan.resolution, plan.num_classes, plan.device
    )
    return choose_attack_mode(
        [target or model for target in targets],
        (images, [target.labels(labels) if target else labels for target in targets]),
        attack_plan,
        setting,
        folder,
    )


def _targets(
    model: nn.Module, plan: EvaluationPlan
) -> tuple[tuple[ScoredLogits | None, ...], dict[str, int]]:
    """List the attack's targets (None is the model itself), and map views to target indices."""
    targets: list[ScoredLogits | None] = []
    places: dict[object, int] = {}
    target_of = {}
    attacks_scored = plan.attack is not None and plan.attacked_logits == "scored"
    for name, view in plan.views.items():
        restricts = attacks_scored and view.restricts(plan.num_classes)
        scored = (view.logits, view.groups, view.by) if restricts else None
        if scored not in places:
            places[scored] = len(targets)
            targets.append(
                ScoredLogits(model, view, plan.num_classes, plan.device) if restricts else None
            )
        target_of[name] = places[scored]
    return tuple(targets), target_of


def group_logits(
    logits: Tensor, groups: Tensor, num_groups: int, by: Literal["sum", "max"]
) -> Tensor:
    """Compute logits [B, num_groups] of groups of classes.

    Args:
        logits: [B, K].
        groups: int64 [K], the group of each class. No group is empty.
        num_groups: Number of groups.
        by: "sum" returns the logit of a group's summed probability, "max" its highest logit.
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

    Args:
        model: Maps images [B, 3, R, R] to logits [B, num_classes].
        loader: Loader of the images.
        device: Device of the model.
        precision: Number format of the passes.
        num_classes: Number of classes.

    Returns:
        `top1`, `loss` and other scores; see `Counts.scores`, or `MultiLabelCounts.scores` if images
        have several labels.
    """
    return count(
        model, loader, device=device, precision=precision, num_classes=num_classes
    ).scores()


def count(
    model: nn.Module, loader: Loader, *, device: str, precision: Precision, num_classes: int
) -> Counts | MultiLabelCounts:
    """Evaluate all images as `score` does, and return counts that include predictions."""
    counts = (
        MultiLabelCounts()
        if loader.multi_label
        else Counts(num_classes, device, keep_predictions=True)
    )
    for (logits,), labels in _logits_of_batches(model, loader, device, precision):
        counts.add(logits, labels)
    return counts


def _logits_of_batches(
    model: nn.Module,
    loader: Loader,
    device: str,
    precision: Precision,
    plan: AttackPlan | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    zero_gradients: Tensor | None = None,
    targets: Sequence[ScoredLogits | None] = (None,),
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield, for each batch, the logits [B, K] after the attack on each target, and the labels.

    The next batch may overwrite the labels.
    """
    # Each attack has a new generator, so random starts are equal in all evaluations and for all
    # targets.
    attacks = [
        plan.attack_on(target or model, zero_gradients) if plan else None for target in targets
    ]
    num_images = 0
    with eval_mode(model), cudnn_benchmark(device), loader.epoch(0) as batches:
        for images, labels in batches:
            num_images += len(labels)
            batch = []
            for target, attack in zip(targets, attacks, strict=True):
                shown = images
                if attack is not None:
                    shown = attack(images, target.labels(labels) if target else labels)
                with torch.inference_mode(), autocast(precision, device, model):
                    batch.append(model(shown))
            yield batch, labels
    assert sum(group.all_gather(num_images)) == loader.num_samples, (
        "the loader's plan leaves images out (drop_last)"
    )
