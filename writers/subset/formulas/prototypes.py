"""Prototypes: the distance of an image to the center of its k-means cluster.

Sorscher et al., "Beyond neural scaling laws: beating power law scaling via data pruning", NeurIPS
2022: the difficulty of an image is the cosine distance of its features to the nearest center.
"""

import numpy as np

from writers.subset.formulas.clusters import Clusters, unit_length


def distances(features: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Return 1 - cos(f, center of its cluster), float64 [N].

    Args:
        features: float [N, D].
        clusters: clusters of these images.
    """
    centers = unit_length(clusters.centers)[clusters.labels]
    cosine: np.ndarray = (unit_length(features) * centers).sum(axis=1)
    return 1 - cosine
