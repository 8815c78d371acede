"""Forgetting events: how often training unlearns an image.

Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR
2019: an event is a change from a correct to a wrong prediction between two evaluations of an image.
The paper evaluates an image when it is in a batch; here all images are evaluated after each epoch.
"""

import numpy as np


def num_forgotten(correct: np.ndarray) -> np.ndarray:
    """Count the forgetting events of each image in one training run.

    An image that was never predicted correctly gets the number of evaluations, which is more than
    any count: in the paper, such an image is forgotten infinitely often.

    Args:
        correct: True if the prediction was right, bool [evaluations, N].

    Returns:
        float64 [N].
    """
    events: np.ndarray = (correct[:-1] & ~correct[1:]).sum(axis=0).astype(np.float64)
    events[~correct.any(axis=0)] = len(correct)
    return events


def forgetting(counts: np.ndarray) -> np.ndarray:
    """Average the counts over training runs: float64 [M, N] -> [N]."""
    mean: np.ndarray = counts.mean(axis=0)
    return mean
