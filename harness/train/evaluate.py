"""One pass over a split, clean or attacked, seen from several sides at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from harness.settings import AttackSettings
from harness.train.attack import pgd
from harness.train.metrics import Counts
from harness.train.modes import eval_mode
from harness.train.precision import Precision, autocast
from loaders.backend import Loader


@dataclass(frozen=True)
class View:
    """Which images of a pass count, and among which classes the model decides. None: all."""

    labels: tuple[int, ...] | None = None
    logits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.logits is not None:
            assert self.labels is not None and set(self.labels) <= set(self.logits), "a true class that cannot be chosen"


def evaluate(model: nn.Module, loader: Loader, *, device: str, precision: Precision, num_classes: int,
             views: Mapping[str, View], attack: AttackSettings | None = None, eps: float = 0.0) -> dict[str, Counts]:
    """Count every image of the loader's epoch 0 once, in each of the views.

    With an attack, images are first moved within `eps` to raise the loss over all logits; an image that is in no view is
    attacked none the less, so that its batch is the same in every view. The model's modes are as before.
    """
    counts = {name: Counts(num_classes, device, labels=view.labels, logits=view.logits) for name, view in views.items()}
    generator = torch.Generator(device).manual_seed(0)     # for attacks that start at random: the same points every time
    num_images = 0
    with eval_mode(model), loader.epoch(0) as batches:
        for images, labels in batches:
            num_images += len(labels)
            if attack is not None:
                pixels = images.float().div_(255)
                images = pgd(model, pixels, labels, norm=attack.norm, eps=eps, steps=attack.steps,
                             step_size=attack.relative_step_size * eps, random_start=attack.random_start,
                             best_iterate=attack.best_iterate, generator=generator, precision=precision)
            with torch.inference_mode(), autocast(precision, device):
                logits = model(images)
            for count in counts.values():
                count.add(logits, labels)
    assert num_images == loader.num_samples, "a plan for training (drop_last) was evaluated"
    return counts
