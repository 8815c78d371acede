"""Training loss: cross-entropy, or binary cross-entropy if images have several labels."""

from torch import Tensor
from torch.nn import functional


def has_one_label(labels: Tensor) -> bool:
    """Return True for class numbers [B] and for probabilities [B, K]."""
    return labels.ndim == 1 or labels.is_floating_point()


def image_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the loss of each image, [B] in nats.

    With several labels it is the sum of K binary cross-entropies, without those of difficult
    classes. The gradient of a sum at a logit is `sigmoid - label`, and with one label it is
    `softmax - label`: the same learning rates suit both.

    Args:
        logits: float32 [B, K].
        labels: int64 [B], or int8 [B, K]; 1 present, 0 difficult, -1 absent. float32 [B, K] are
            probabilities of one label, as MixUp makes them.
        label_smoothing: Fraction of the target spread evenly over all classes.
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
    """Compute the mean of `image_losses`, a scalar."""
    if has_one_label(labels):
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return image_losses(logits, labels, label_smoothing).mean()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the images that `is_correct` selects. Returns an int64 scalar on the device."""
    return is_correct(logits, labels).sum()


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each image's highest logit is at its class or one of its classes, bool [B].

    The class of a mixed image is its most probable one. Arguments as in `image_losses`.
    """
    predicted = logits.argmax(1)
    if labels.ndim == 1:
        return predicted == labels
    if labels.is_floating_point():
        return predicted == labels.argmax(1)
    return labels.gather(1, predicted[:, None])[:, 0] == 1
