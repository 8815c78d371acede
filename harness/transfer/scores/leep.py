"""LEEP: log-likelihood of the target's labels, predicted from a source model's probabilities.

Nguyen, Hassner, Seeger and Archambeau, ICML 2020. theta(x)_z is the probability that the source
model gives its class z for image x. P(y, z) is the sum of theta(x)_z over images of label y,
divided by N, and the probability of label y for x is sum_z P(y | z) theta(x)_z. LEEP is 0 if the
source model's predictions are one-hot and separate the labels, and -log K if they are independent
of K balanced labels. Compare LEEP only between source models with the same number of classes.
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_probs

NEEDS = ("probs",)


def score(*, features: Any = None, probs: Any, labels: Any) -> float:
    """Return LEEP, at most 0.

    Args:
        probs: [N, C], rows sum to 1.
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    theta, classes, num_classes = check_probs(probs, labels)
    return log_likelihood(theta, classes, num_classes)


def log_likelihood(theta: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return the mean over i of log sum_z P(y_i | z) theta(x_i)_z.

    Source classes that have probability 0 for all images are ignored.

    Args:
        theta: [N, C], probabilities of the source model's classes.
        labels: [N], 0..K-1.
        num_classes: K.
    """
    joint = np.zeros((num_classes, theta.shape[1]))
    np.add.at(joint, labels, theta)
    mass = joint.sum(axis=0)
    # Avoid 0 / 0, for which the public code returns NaN.
    conditional = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    likelihood = np.einsum("nz,nz->n", conditional[labels], theta)
    return float(np.log(likelihood).mean())
