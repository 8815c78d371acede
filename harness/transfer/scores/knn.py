"""kNN: leave-one-out accuracy of exact nearest neighbors among the target's training images.

Puigcerver et al. 2020 and Sokolski (`recipes/model_zoo.yaml`) use k = 1 and Euclidean distances.
Matrix products in float32 find candidates, in chunks of rows. The candidates' distances are then
computed from differences in float64. If the candidates of a row may be incomplete, the distances to
all images are computed in this way. If distances are equal, the lower index is nearer; if votes are
equal, the lower label wins. Exact duplicates bias the score upwards; `duplicates` counts them.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.transfer.score import check_features
from writers.errors import UserError
from writers.text_names import counted

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = ("features",)
CHUNK = 1024  # rows of distances that are in memory at once, float32 [CHUNK, N]
NUM_NEIGHBORS = (1, 5, 20)
SLACK = 1e-5  # bound on the float32 error of a squared distance, relative to squared norms
SPARE = 16  # additional candidates, because float32 may order nearly equal distances wrongly


def score(
    *,
    features: Any,
    probs: Any = None,
    labels: Any,
    k: int = 1,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    device: str = "cpu",
) -> float:
    """Return the leave-one-out accuracy, in [0, 1].

    Args:
        features: [N, D], N > k.
        labels: [N].
        k: number of neighbors that vote.
        metric: distance between features.
        device: device that computes the distances.

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, classes, num_classes = check_features(features, labels)
    if not 1 <= k < len(matrix):
        raise UserError(
            f"k is {k}; it must be at least 1 and less than the {counted(len(matrix), 'image')}."
        )
    return _accuracy(
        nearest_neighbors(matrix, k, metric=metric, device=device), classes, num_classes
    )


def variants(
    *, features: Any, probs: Any = None, labels: Any, device: str = "cpu"
) -> dict[str, float]:
    """Return `knn` (k = 1), `knn_k5` and `knn_k20` (if N > k), and `knn_cosine` (k = 1).

    Arguments as in `score`.

    Raises:
        UserError: wrong shapes, values or labels, or there is only one image.
    """
    matrix, classes, num_classes = check_features(features, labels)
    if len(matrix) < 2:
        raise UserError("There is only one image: it has no neighbor.")
    values_of_k = [k for k in NUM_NEIGHBORS if k < len(matrix)]
    neighbors = nearest_neighbors(matrix, max(values_of_k), device=device)
    accuracies = {
        "knn" if k == 1 else f"knn_k{k}": _accuracy(neighbors[:, :k], classes, num_classes)
        for k in values_of_k
    }
    accuracies["knn_cosine"] = _accuracy(
        nearest_neighbors(matrix, 1, metric="cosine", device=device), classes, num_classes
    )
    return accuracies


def _accuracy(neighbors: np.ndarray, classes: np.ndarray, num_classes: int) -> float:
    """Return the accuracy of the most frequent label among each row's neighbors [N, k].

    If several labels are equally frequent, the lowest one is taken.
    """
    votes = np.zeros((len(classes), num_classes), np.int32)
    np.add.at(votes, (np.arange(len(classes))[:, None], classes[neighbors]), 1)
    return float((votes.argmax(axis=1) == classes).mean())


def nearest_neighbors(
    features: np.ndarray, k: int, *, metric: str = "euclidean", device: str = "cpu"
) -> np.ndarray:
    """Return the k nearest other rows of each row of [N, D], nearest first: int64 [N, k]."""
    import torch

    rows = np.asarray(features, np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1)
    exact = torch.as_tensor(rows, device=device)
    # Centering does not change distances, but reduces norms and thus cancellation.
    rough = (exact - exact.mean(dim=0)).float()
    neighbors = [
        _nearest_in_chunk(rough, exact, start, min(CHUNK, len(rough) - start), k)
        for start in range(0, len(rough), CHUNK)
    ]
    return torch.cat(neighbors).cpu().numpy()


def duplicates(features: Any) -> int:
    """Count the rows of features [N, D] that equal an earlier row exactly; 0 for None."""
    if features is None:
        return 0
    matrix = np.ascontiguousarray(features)
    return len(matrix) - len({row.tobytes() for row in matrix})


def _nearest_in_chunk(
    rough: "Tensor", exact: "Tensor", start: int, length: int, k: int
) -> "Tensor":
    import torch

    rows = slice(start, start + length)
    squares = (rough**2).sum(dim=1)
    distances = squares[None, :] - 2 * rough[rows] @ rough.T + squares[rows, None]
    distances[torch.arange(length), torch.arange(start, start + length)] = torch.inf
    farthest, candidates = distances.topk(min(k + SPARE, len(rough) - 1), dim=1, largest=False)
    neighbors, reach = _sort_exactly(exact, exact[rows], candidates.sort(dim=1).values, k)
    if candidates.shape[1] < len(rough) - 1:  # other rows may be equally near
        # `reach` is the squared distance of the k-th neighbor. By the triangle inequality, a row
        # that is as near has a norm of at most own norm + sqrt(reach).
        norms = squares[rows].sqrt()
        slack = SLACK * (squares[rows] + (norms + reach.sqrt()) ** 2)
        for row in (farthest[:, -1] - slack <= reach).nonzero()[:, 0].tolist():
            others = torch.arange(len(rough), device=exact.device)
            others = others[others != start + row][None, :]
            neighbors[row] = _sort_exactly(exact, exact[start + row][None, :], others, k)[0][0]
    return neighbors


def _sort_exactly(
    exact: "Tensor", rows: "Tensor", candidates: "Tensor", k: int
) -> "tuple[Tensor, Tensor]":
    """Return the k nearest of the candidates, and the squared distance of the k-th.

    Candidates are sorted by index, so that the lower index comes first if distances are equal.
    """
    import torch

    if len(rows) == 1:
        true = ((exact[candidates[0]] - rows) ** 2).sum(dim=1)[None, :]
    else:  # compute one column at a time: [n, c, D] does not fit in memory
        columns = range(candidates.shape[1])
        true = torch.stack(
            [((exact[candidates[:, column]] - rows) ** 2).sum(dim=1) for column in columns], dim=1
        )
    nearest_first = true.sort(dim=1, stable=True)  # stable: lower index first
    return candidates.gather(1, nearest_first.indices[:, :k]), nearest_first.values[:, k - 1]
