"""EL2N: the length of an image's error vector early in training.

Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021 (arXiv 2107.07075): the
mean over models of ||p(x) - y||_2, with class probabilities p and the one-hot label y.
"""

import numpy as np


def error_norms(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ||p - y||_2 of each image for one model, float64 [N], from 0 to sqrt(2).

    Args:
        probs: class probabilities, float [N, C].
        labels: int64 [N].
    """
    probs = probs.astype(np.float64)
    of_label = probs[np.arange(len(labels)), labels]
    # sum over c of (p_c - y_c)^2 = sum p_c^2 - 2 p_y + 1, which rounding may make negative
    squared = (probs**2).sum(axis=1) - 2 * of_label + 1
    norms: np.ndarray = np.sqrt(np.maximum(squared, 0.0))
    return norms


def el2n(norms: np.ndarray) -> np.ndarray:
    """Average the error norms over models: float64 [M, N] -> [N]."""
    mean: np.ndarray = norms.mean(axis=0)
    return mean
