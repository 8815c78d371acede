"""Scores where an image has many labels: mean average precision over classes, by PASCAL VOC 2007's eleven points."""

import numpy as np
import torch
from torch import Tensor

from harness.matrix.scores import Scores
from harness.train.divergence import check_evaluated
from harness.train.loss import image_losses
from writers.errors import UserError


class MultiLabelCounts:
    """What a classifier answered for all images that were added: they are kept, for precision needs their whole order."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """logits: [B, K] of any float type; labels: int8 [B, K], 1 there, 0 difficult, -1 not. Does not wait for the GPU."""
        self._logits.append(logits.float().clone())
        self._labels.append(labels.clone())  # the loader fills its memory again

    def scores(self) -> Scores:
        """Fractions `map11` and `map`, `top1` and `top5`; mean `loss` in nats; the counts `num_images` and `num_correct`.

        map11: mean of `eleven_point_ap` over the classes that are in an image (the score of VOC 2007). map: likewise of
        `average_precision`. top1, top5: images with a class that is there among the one or five highest logits.
        Raises UserError where no image was counted, or none has a class; Diverged where the loss is not finite.
        """
        if not self._logits:
            raise UserError("There is no image to score.", "Is the split empty?")
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        loss = float(image_losses(logits, labels).double().mean())
        check_evaluated(loss, len(labels))
        outputs, truth = logits.cpu().numpy(), labels.cpu().numpy()
        present = [label for label in range(truth.shape[1]) if (truth[:, label] == 1).any()]
        if not present:
            raise UserError(
                "No image of this split has a class that is surely there.",
                "Was the right split written?",
            )
        sure = truth == 1
        first5 = np.argsort(-_worst_where_none(outputs, sure), axis=1, kind="stable")[:, :5]
        right = np.take_along_axis(sure, first5, 1)
        num_images, num_correct = len(truth), int(right[:, 0].sum())
        return {
            "map11": float(
                np.mean([eleven_point_ap(outputs[:, label], truth[:, label]) for label in present])
            ),
            "map": float(
                np.mean(
                    [average_precision(outputs[:, label], truth[:, label]) for label in present]
                )
            ),
            "top1": num_correct / num_images,
            "top5": int(right.any(1).sum()) / num_images,
            "loss": loss,
            "num_images": num_images,
            "num_correct": num_correct,
        }

    def predictions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every image, in order: the class of its highest logit, int32 [N]; whether it is there, bool [N]; logits [N, K]."""
        logits = torch.cat(self._logits)
        answers = logits.argmax(1, keepdim=True)
        right = torch.cat(self._labels).gather(1, answers) == 1
        return (
            answers[:, 0].to(torch.int32).cpu().numpy(),
            right[:, 0].cpu().numpy(),
            logits.cpu().numpy(),
        )


def eleven_point_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """(1/11) sum over t in {0, 0.1, ..., 1} of the highest precision at a recall of at least t (Everingham et al. 2010, eq. 1).

    scores: float [N]; labels: [N], 1 there, 0 difficult (left out), -1 not. Images of equal score count together, so that
    the order in the file plays no part. Recalls are compared in integers: in floats 3/10 is below 3 * 0.1.
    """
    num_true, num_found = _curve(scores, labels)
    reached = 10 * num_true[:, None] >= np.arange(11) * num_true[-1]
    return float(np.where(reached, (num_true / num_found)[:, None], 0).max(0).mean())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under precision against recall, without interpolation: precision at each new recall, times the step to it."""
    num_true, num_found = _curve(scores, labels)
    return float((np.diff(num_true, prepend=0) * num_true / num_found).sum() / num_true[-1])


def _curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At each distinct score, highest first: how many images at or above it have the class, and how many there are."""
    positive = labels[labels != 0] == 1
    scores = _worst_where_none(scores[labels != 0], positive)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return positive[order].cumsum()[last], last + 1


def _worst_where_none(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """A score that is no number stands at the wrong end: a diverged model is wrong rather than right by accident."""
    return np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
