"""Cluster features of unit length by k-means."""

from typing import NamedTuple

import numpy as np

FEW_IMAGES = 50_000  # if there are more images, they are clustered in small batches
_CHUNK = 8192  # images per matrix product


class Clusters(NamedTuple):
    """Centers, float64 [K, D], and the nearest center of each image, int64 [N]."""

    centers: np.ndarray
    labels: np.ndarray


def cluster(features: np.ndarray, num_clusters: int, seed: int) -> Clusters:
    """Cluster features of unit length by k-means++ and Lloyd's iterations.

    Args:
        features: float [N, D].
        num_clusters: K. If it is larger than N, N is used.
        seed: seed of the first centers.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    unit = unit_length(features)
    num_clusters = min(num_clusters, len(unit))
    if len(unit) > FEW_IMAGES:
        model = MiniBatchKMeans(num_clusters, batch_size=_CHUNK, n_init=1, random_state=seed)
    else:
        model = KMeans(num_clusters, n_init=1, random_state=seed)
    centers = model.fit(unit).cluster_centers_.astype(np.float64)
    return Clusters(centers, nearest(unit, centers))


def nearest(unit: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the nearest center of each row by Euclidean distance, int64 [N]. The first wins ties.

    Args:
        unit: features of unit length, float [N, D].
        centers: float [K, D].
    """
    half_squares = (centers**2).sum(axis=1) / 2
    return np.concatenate(
        [
            (half_squares - unit[start : start + _CHUNK] @ centers.T).argmin(axis=1)
            for start in range(0, len(unit), _CHUNK)
        ]
        or [np.zeros(0, np.int64)]
    )


def unit_length(features: np.ndarray) -> np.ndarray:
    """Divide each row by its Euclidean length, float64 [N, D]; rows of zeros remain zero."""
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: np.ndarray = features / np.where(lengths > 0, lengths, 1.0)
    return unit
