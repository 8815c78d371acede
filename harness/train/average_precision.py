"""Scores of multi-label images: mean average precision over classes (PASCAL VOC 2007)."""

import numpy as np
import torch
from torch import Tensor

from harness.matrix.scores import Scores
from harness.train.divergence import check_finite_loss
from harness.train.loss import image_losses
from writers.errors import UserError


class MultiLabelCounts:
    """Keep the logits and labels of all images: average precision ranks all images at once."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch. Does not wait for the GPU.

        Args:
            logits: [B, K] of any float type.
            labels: int8 [B, K]; 1 present, 0 difficult, -1 absent.
        """
        self._logits.append(logits.float().clone())
        self._labels.append(labels.clone())  # the loader reuses its memory

    def scores(self) -> Scores:
        """Compute the scores of all images.

        Returns:
            `map11`: mean of `eleven_point_ap` over the classes that are present in any image (the
            score of VOC 2007). `map`: mean of `average_precision` over these classes. `top1`,
            `top5`: fraction of images with a present class among the one or five highest logits.
            `loss`: mean in nats. `num_images` and `num_correct`: counts.

        Raises:
            UserError: no image was added, or none has a class.
            DivergedError: the loss is not finite.
        """
        if not self._logits:
            raise UserError("There is no image to score.", "Check that the split is not empty.")
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        loss = float(image_losses(logits, labels).double().mean())
        check_finite_loss(loss, len(labels))
        outputs, truth = logits.cpu().numpy(), labels.cpu().numpy()
        present = [label for label in range(truth.shape[1]) if (truth[:, label] == 1).any()]
        if not present:
            raise UserError(
                "No image of this split has a class marked as present.",
                "Check that the right split was written.",
            )
        is_present = truth == 1
        top5 = np.argsort(-_replace_nan(outputs, is_present), axis=1, kind="stable")[:, :5]
        correct = np.take_along_axis(is_present, top5, 1)
        num_images, num_correct = len(truth), int(correct[:, 0].sum())
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
            "top5": int(correct.any(1).sum()) / num_images,
            "loss": loss,
            "num_images": num_images,
            "num_correct": num_correct,
        }

    def predictions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predictions in the order in which images were added.

        Returns:
            Class of the highest logit, int32 [N]; True if the image has that class, bool [N];
            logits, float32 [N, K].
        """
        logits = torch.cat(self._logits)
        predicted = logits.argmax(1, keepdim=True)
        correct = torch.cat(self._labels).gather(1, predicted) == 1
        return (
            predicted[:, 0].to(torch.int32).cpu().numpy(),
            correct[:, 0].cpu().numpy(),
            logits.cpu().numpy(),
        )


def eleven_point_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the eleven-point average precision (Everingham et al. 2010, eq. 1).

    It is the mean over t in {0, 0.1, ..., 1} of the highest precision at a recall of at least t.
    Images of equal score are retrieved together, so the order of images has no effect. Recalls are
    compared as integers, because 3/10 is below 3 * 0.1 in floating point.

    Args:
        scores: float [N].
        labels: [N]; 1 present (at least once), 0 difficult (ignored), -1 absent.
    """
    num_true, num_retrieved = _curve(scores, labels)
    reached = 10 * num_true[:, None] >= np.arange(11) * num_true[-1]
    return float(np.where(reached, (num_true / num_retrieved)[:, None], 0).max(0).mean())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the area under the precision-recall curve, without interpolation.

    Sums precision times the increase of recall. Arguments as in `eleven_point_ap`.
    """
    num_true, num_retrieved = _curve(scores, labels)
    return float((np.diff(num_true, prepend=0) * num_true / num_retrieved).sum() / num_true[-1])


def _curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the images at or above each of the S distinct scores, highest score first.

    Returns:
        Number of images of the class, int64 [S], and number of all images, int64 [S].
    """
    positive = labels[labels != 0] == 1
    scores = _replace_nan(scores[labels != 0], positive)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return positive[order].cumsum()[last], last + 1


def _replace_nan(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Replace NaN by the worst possible score, so that a diverged model gets no credit."""
    return np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
