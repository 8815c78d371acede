"""LEEP: log-likelihood of the target's labels under a classifier from the source's probabilities.

Nguyen, Hassner, Seeger and Archambeau, ICML 2020: P(y, z) is the mean of theta(x)_z over images of
label y; each image is then predicted by sum_z P(y | z) theta(x)_z. 0 for a one-hot source that
separates the labels, -log K for one that does not. Comparable only between sources with equal
numbers of classes.
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
    """Mean of log sum_z P(y_i | z) theta(x_i)_z. Source classes without mass are ignored."""
    joint = np.zeros((num_classes, theta.shape[1]))
    np.add.at(joint, labels, theta)
    mass = joint.sum(axis=0)
    # The public code divides 0 by 0 and returns NaN.
    conditional = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    likelihood = np.einsum("nz,nz->n", conditional[labels], theta)
    return float(np.log(likelihood).mean())
