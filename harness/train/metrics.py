"""Exact scores: whole images are counted, on the device, and read once at the end."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.matrix.scores import Scores
from harness.system.distributed import ProcessGroup
from harness.train.divergence import check_evaluated
from writers.errors import UserError


class Counts:
    """What a classifier of K classes got right, of all images that were added."""

    def __init__(
        self,
        num_classes: int,
        device: str | torch.device,
        *,
        labels: Sequence[int] | None = None,
        logits: Sequence[int] | None = None,
        keep_predictions: bool = False,
    ) -> None:
        """labels: count images of these classes only. logits: decide among these classes only. None: all of them.
        keep_predictions: for `predictions`."""
        self.num_classes = num_classes
        self._counted = None if labels is None else _member(labels, num_classes, device)
        self._excluded = None if logits is None else ~_member(logits, num_classes, device)
        self._total = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._correct = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._num_top5 = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._predicted: list[Tensor] | None = [] if keep_predictions else None
        self._right: list[Tensor] = []
        self._probability = torch.zeros(num_classes, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """logits: [B, K] of any float type; labels: [B] int64. Does not wait for the GPU."""
        logits = logits.float()
        if self._excluded is not None:
            logits = logits.masked_fill(self._excluded, -torch.inf)
        counted = (
            torch.ones_like(labels, dtype=torch.bool)
            if self._counted is None
            else self._counted[labels]
        )
        rank = _rank(logits, labels)
        loss = functional.cross_entropy(logits, labels, reduction="none").double()
        self._total.index_add_(0, labels, counted.long())
        right = counted & (rank < 1)
        self._correct.index_add_(0, labels, right.long())
        self._num_top5 += (counted & (rank < 5)).sum()
        self._loss += loss.where(counted, 0).sum()
        self._probability.index_add_(0, labels, loss.neg().exp().where(counted, 0))
        if self._predicted is not None:
            self._predicted.append(_first_of_highest(logits).where(counted, -1).to(torch.int32))
            self._right.append(right)

    def all_reduce_(self, group: ProcessGroup) -> None:
        """Count what all processes have counted, each on its part of every batch; in all of them."""
        group.all_reduce_(self._total, self._correct, self._num_top5, self._loss, self._probability)
        if self._predicted is not None and group.world_size > 1:
            self._predicted = [in_order(group.all_gather(self._predicted))]
            self._right = [in_order(group.all_gather(self._right))]

    def scores(self) -> Scores:
        """Fractions `top1`, `top5` (every image, where K < 5), `mean_per_class` (over the classes that have images), mean
        `loss` in nats, and the counts `num_images` and `num_correct`. Raises UserError where no image was counted, and
        Diverged where the loss is not finite: such a model answers nothing."""
        correct, total = self.per_class()
        num_images, num_correct = int(total.sum()), int(correct.sum())
        if num_images == 0:
            raise UserError(
                "There is no image to score.",
                "Is the split empty, or do the subsets share no class?",
            )
        loss = float(self._loss) / num_images
        check_evaluated(loss, num_images)
        present = total > 0
        return {
            "top1": num_correct / num_images,
            "top5": int(self._num_top5) / num_images,
            "mean_per_class": float((correct[present].double() / total[present]).mean()),
            "loss": loss,
            "num_images": num_images,
            "num_correct": num_correct,
        }

    def per_class(self) -> tuple[Tensor, Tensor]:
        """(correct, total): int64 [K] each, on the CPU."""
        return self._correct.cpu(), self._total.cpu()

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every image that was added, in that order: the class decided for, int32 [N], -1 for an image that the view
        leaves out; and whether it is right, bool [N]."""
        assert self._predicted is not None, "predictions were not kept"
        return torch.cat(self._predicted).cpu().numpy(), torch.cat(self._right).cpu().numpy()

    def mean_probability(self) -> Tensor:
        """The probability given to the true class, averaged over each class's images: float64 [K], on the CPU; 0 where none."""
        return self._probability.cpu() / self._total.cpu().clamp(min=1)


def in_order(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Rank by rank and batch by batch, each process's part [b, ...] of a batch: all, in the order of one process.

    The last batch may be missing in later ranks.
    """
    batches = []
    for number, first in enumerate(parts[0]):
        pieces = [of_rank[number] for of_rank in parts if number < len(of_rank)]
        batch = first.new_empty((sum(map(len, pieces)), *first.shape[1:]))
        for rank, piece in enumerate(pieces):
            batch[rank :: len(parts)] = piece
        batches.append(batch)
    return torch.cat(batches)


def _rank(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one, [B]. Equal logits (bf16 has many) go by class number, as argmax does; a
    logit that is not a number comes before all, so that a diverged model is wrong rather than right by accident."""
    own = logits.gather(1, labels[:, None])
    number = torch.arange(logits.shape[1], device=logits.device)
    behind = (logits < own) | ((logits == own) & (number >= labels[:, None]))
    return (~behind).sum(1)


def _first_of_highest(logits: Tensor) -> Tensor:
    """[B]. As argmax on a CPU; which of equal logits it takes on a GPU is not said."""
    number = torch.arange(logits.shape[1], device=logits.device)
    return number.where(logits == logits.amax(1, keepdim=True), logits.shape[1] - 1).amin(1)


def _member(classes: Sequence[int], num_classes: int, device: str | torch.device) -> Tensor:
    member = torch.zeros(num_classes, dtype=torch.bool)
    member[list(classes)] = True
    return member.to(device)
