"""Count correct predictions on the device, and read the counts once at the end."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.matrix.scores import Scores
from harness.system.distributed import ProcessGroup
from harness.train.divergence import check_finite_loss
from writers.errors import UserError


class Counts:
    """Counts of correct predictions of a classifier with K classes."""

    def __init__(
        self,
        num_classes: int,
        device: str | torch.device,
        *,
        labels: Sequence[int] | None = None,
        logits: Sequence[int] | None = None,
        keep_predictions: bool = False,
    ) -> None:
        """Start at zero.

        Args:
            num_classes: Number of classes, K.
            device: Device of the logits.
            labels: Classes whose images are counted; None counts all images.
            logits: Classes that the model may predict; None allows all.
            keep_predictions: True keeps what `predictions` returns.
        """
        self.num_classes = num_classes
        self._counted = None if labels is None else _member(labels, num_classes, device)
        self._excluded = None if logits is None else ~_member(logits, num_classes, device)
        self._total = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._correct = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._num_top5 = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._predicted: list[Tensor] | None = [] if keep_predictions else None
        self._is_correct: list[Tensor] = []
        self._probability = torch.zeros(num_classes, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch. Does not wait for the GPU.

        Args:
            logits: [B, K] of any float type.
            labels: int64 [B].
        """
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
        is_correct = counted & (rank < 1)
        self._correct.index_add_(0, labels, is_correct.long())
        self._num_top5 += (counted & (rank < 5)).sum()
        self._loss += loss.where(counted, 0).sum()
        self._probability.index_add_(0, labels, loss.neg().exp().where(counted, 0))
        if self._predicted is not None:
            self._predicted.append(_argmax(logits).where(counted, -1).to(torch.int32))
            self._is_correct.append(is_correct)

    def all_reduce_(self, group: ProcessGroup) -> None:
        """Sum the counts over ranks, each of which has counted its part of every batch."""
        group.all_reduce_(self._total, self._correct, self._num_top5, self._loss, self._probability)
        if self._predicted is not None and group.world_size > 1:
            self._predicted = [in_order(group.all_gather(self._predicted))]
            self._is_correct = [in_order(group.all_gather(self._is_correct))]

    def scores(self) -> Scores:
        """Compute the scores of the counted images.

        Returns:
            Fractions `top1` and `top5` (1 if K < 5); `mean_per_class`, the mean of the classes'
            accuracies, without classes that have no images; mean `loss` in nats; counts
            `num_images` and `num_correct`.

        Raises:
            UserError: no image was counted.
            DivergedError: the loss is not finite.
        """
        correct, total = self.per_class()
        num_images, num_correct = int(total.sum()), int(correct.sum())
        if num_images == 0:
            raise UserError(
                "There is no image to score.",
                "Check that the split is not empty, and that the subsets share a class.",
            )
        loss = float(self._loss) / num_images
        check_finite_loss(loss, num_images)
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
        """Return the numbers of correct and of all images per class, int64 [K], on the CPU."""
        return self._correct.cpu(), self._total.cpu()

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions in the order in which images were added.

        Returns:
            Predicted class, int32 [N], or -1 if the image is not counted; True if the image is
            counted and the prediction is correct, bool [N].
        """
        assert self._predicted is not None, "predictions were not kept"
        return torch.cat(self._predicted).cpu().numpy(), torch.cat(self._is_correct).cpu().numpy()

    def mean_probability(self) -> Tensor:
        """Return, for each class, the mean probability that its images get for their true class.

        Returns:
            float64 [K] on the CPU; 0 for a class without images.
        """
        return self._probability.cpu() / self._total.cpu().clamp(min=1)


def in_order(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Interleave the batches of all ranks into the order of a single process.

    Args:
        parts: For each rank, its part [b, ...] of each batch. Later ranks may have no part of the
            last batch.
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
    """Count the classes that are ranked before the true class, int64 [B].

    Equal logits, which are frequent in bf16, are ranked by class number, as in `_argmax`. NaN is
    ranked first, so that a diverged model gets no credit.
    """
    own = logits.gather(1, labels[:, None])
    number = torch.arange(logits.shape[1], device=logits.device)
    is_after = (logits < own) | ((logits == own) & (number >= labels[:, None]))
    return (~is_after).sum(1)


def _argmax(logits: Tensor) -> Tensor:
    """Return the lowest index of the highest logit, [B]; on a GPU, argmax may return another."""
    number = torch.arange(logits.shape[1], device=logits.device)
    return number.where(logits == logits.amax(1, keepdim=True), logits.shape[1] - 1).amin(1)


def _member(classes: Sequence[int], num_classes: int, device: str | torch.device) -> Tensor:
    member = torch.zeros(num_classes, dtype=torch.bool)
    member[list(classes)] = True
    return member.to(device)
