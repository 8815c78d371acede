"""NCE: minus the conditional entropy of labels given a source model's hard predictions.

It is the sum over y and z of p(y, z) log p(y | z), for labels y and the source model's class z that
has the highest probability (Tran, Nguyen and Hassner, ICCV 2019).
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_probs

NEEDS = ("probs",)


def score(*, features: Any = None, probs: Any, labels: Any) -> float:
    """Return NCE, at most 0.

    Args:
        probs: [N, C], rows sum to 1.
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    theta, classes, num_classes = check_probs(probs, labels)
    joint = np.zeros((num_classes, theta.shape[1]))
    np.add.at(joint, (classes, theta.argmax(axis=1)), 1 / len(classes))
    source = joint.sum(axis=0)
    y, z = np.nonzero(joint)
    return float((joint[y, z] * np.log(joint[y, z] / source[z])).sum())
