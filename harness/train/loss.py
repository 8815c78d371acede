"""What training minimises and an attack raises: cross-entropy, or, where an image has many labels, binary cross-entropy."""

from torch import Tensor
from torch.nn import functional


def image_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Each image's loss, [B] in nats.

    logits: float32 [B, K]. labels: int64 [B], or int8 [B, K] (1 there, 0 difficult, -1 not). With many labels the loss is the
    sum of K binary cross-entropies without those of difficult classes, which are neither right nor wrong. A sum, so that the
    slope at a logit is `sigmoid - label` as it is `softmax - label` with one label: the same grid of rates fits both.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=label_smoothing
        )
    targets = (labels == 1).float() * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(
        logits, targets, weight=(labels != 0).float(), reduction="none"
    ).sum(1)


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The batch's mean of `image_losses`."""
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return image_losses(logits, labels, label_smoothing).mean()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images have their highest logit at their class; with many labels, at a class that is there."""
    answers = logits.argmax(1)
    if labels.ndim == 1:
        return (answers == labels).sum()
    return (labels.gather(1, answers[:, None]) == 1).sum()
