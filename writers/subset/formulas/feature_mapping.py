"""Feature mapping: score clusters of source images by the target images that are nearest to them.

Zhang et al., NeurIPS 2023 (arXiv 2310.08782), for surrogate models trained without labels: source
features are clustered by k-means, and the score of a cluster is the number of target images whose
nearest center is its center.
"""

import numpy as np

from writers.subset.formulas.clusters import Clusters, nearest, unit_length


def num_nearest(target_features: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Count the target images nearest to each center, int64 [K].

    Args:
        target_features: float [M, D], of the same model as the clusters.
        clusters: clusters of the source images.
    """
    places = nearest(unit_length(target_features), clusters.centers)
    counts: np.ndarray = np.bincount(places, minlength=len(clusters.centers))
    return counts
