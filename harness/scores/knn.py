"""kNN: the share of training images whose nearest other images have their label (leave-one-out, exact).

Puigcerver et al. 2020 and Sokolski's sweep: k = 1, Euclidean, on the target's training images. Chunks of products of matrices
propose candidates in float32; distances that decide are then computed as differences, in float64. Equal distances go to the
image with the lower index, equal votes to the lower label. Exact duplicates flatter the score: `duplicates` counts them.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.score import checked_features
from writers.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = ("features",)
CHUNK = 1024            # images whose distances to all others are in memory at once: [CHUNK, N] float32
NEIGHBOURS = (1, 5, 20)
SPARE = 16              # candidates beyond k: float32 may order nearly equal distances wrongly


def score(*, features: Any, probs: Any = None, labels: Any, k: int = 1, metric: Literal["euclidean", "cosine"] = "euclidean",
          device: str = "cpu") -> float:
    """Leave-one-out accuracy, in [0, 1]. features [N, D], labels [N], N above k. Raises UserError for what does not fit."""
    matrix, classes, num_classes = checked_features(features, labels)
    if not 1 <= k < len(matrix):
        raise UserError(f"k is {k}; it must be at least 1 and less than the {len(matrix)} images.")
    return _accuracy(nearest(matrix, k, metric=metric, device=device), classes, num_classes)


def variants(*, features: Any, probs: Any = None, labels: Any, device: str = "cpu") -> dict[str, float]:
    """`knn` (k = 1), `knn_k5` and `knn_k20` (where there are that many others), and `knn_cosine` (k = 1), by two searches."""
    matrix, classes, num_classes = checked_features(features, labels)
    if len(matrix) < 2:
        raise UserError("There is one image: it has no neighbour.")
    asked = [k for k in NEIGHBOURS if k < len(matrix)]
    neighbours = nearest(matrix, max(asked), device=device)
    found = {"knn" if k == 1 else f"knn_k{k}": _accuracy(neighbours[:, :k], classes, num_classes) for k in asked}
    found["knn_cosine"] = _accuracy(nearest(matrix, 1, metric="cosine", device=device), classes, num_classes)
    return found


def _accuracy(neighbours: np.ndarray, classes: np.ndarray, num_classes: int) -> float:
    """Of the majority among each row's neighbours [N, k]; of equal votes the lower label's."""
    votes = np.zeros((len(classes), num_classes), np.int32)
    np.add.at(votes, (np.arange(len(classes))[:, None], classes[neighbours]), 1)
    return float((votes.argmax(axis=1) == classes).mean())


def nearest(features: np.ndarray, k: int, *, metric: str = "euclidean", device: str = "cpu") -> np.ndarray:
    """Of each row the k nearest others, nearest first: int64 [N, k]."""
    import torch

    exact = features - features.mean(axis=0)        # smaller norms, less cancellation; distances stay as they are
    if metric == "cosine":
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        exact = features / np.where(norms > 0, norms, 1)
    exact_there = torch.as_tensor(exact, dtype=torch.float64, device=device)
    rough = exact_there.float()
    found = [_of_chunk(rough, exact_there, start, min(CHUNK, len(rough) - start), k) for start in range(0, len(rough), CHUNK)]
    return torch.cat(found).cpu().numpy()


def duplicates(features: Any) -> int:
    """How many rows are exactly equal to an earlier one."""
    matrix = np.ascontiguousarray(features)
    return len(matrix) - len({row.tobytes() for row in matrix})


def _of_chunk(rough: "Tensor", exact: "Tensor", start: int, length: int, k: int) -> "Tensor":
    import torch

    rows = slice(start, start + length)
    distances = (rough**2).sum(dim=1)[None, :] - 2 * rough[rows] @ rough.T      # plus |a|^2, the same for a whole row
    distances[torch.arange(length), torch.arange(start, start + length)] = torch.inf
    candidates = distances.topk(min(k + SPARE, len(rough) - 1), dim=1, largest=False).indices.sort(dim=1).values
    true = torch.stack([((exact[candidates[:, column]] - exact[rows])**2).sum(dim=1) for column in range(candidates.shape[1])],
                       dim=1)
    order = true.sort(dim=1, stable=True).indices[:, :k]        # candidates are in rising order: ties go to the lower index
    return candidates.gather(1, order)
