"""Training loss: cross-entropy, or binary cross-entropy if images have several labels."""

from torch import Tensor
from torch.nn import functional


def has_one_label(labels: Tensor) -> bool:
    """Return True if each image has one label: class numbers [B], or float probabilities [B, K]."""
    return labels.ndim == 1 or labels.is_floating_point()


def image_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the loss of each image, [B] in nats.

    With one label it is the cross-entropy. With several labels it is the sum, not the mean, of the
    binary cross-entropies of all classes that are not difficult. The gradients at a logit are then
    `softmax - label` and `sigmoid - label`, so the same learning rates suit both losses.

    Args:
        logits: float32 [B, K].
        labels: class numbers, int64 [B]; several labels, int8 [B, K], with 1 present, 0 difficult,
            -1 absent; or probabilities of one label, as in MixUp, float32 [B, K].
        label_smoothing: Fraction of the target spread evenly over all classes. With several labels,
            fraction of each target that is replaced by 1/2.
    """
    if has_one_label(labels):
        return functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=label_smoothing
        )
    targets = (labels == 1).float() * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(
        logits, targets, weight=(labels != 0).float(), reduction="none"
    ).sum(1)


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the mean of `image_losses`, a scalar. Arguments as in `image_losses`."""
    if has_one_label(labels):
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return image_losses(logits, labels, label_smoothing).mean()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the correct images (see `is_correct`) in an int64 scalar on the device."""
    return is_correct(logits, labels).sum()


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return True for images whose highest logit belongs to one of their classes, bool [B].

    The class of a mixed image is its most probable class. Arguments as in `image_losses`.
    """
    predicted = logits.argmax(1)
    if labels.ndim == 1:
        return predicted == labels
    if labels.is_floating_point():
        return predicted == labels.argmax(1)
    return labels.gather(1, predicted[:, None])[:, 0] == 1
