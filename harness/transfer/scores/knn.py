"""kNN: the share of training images whose nearest other images have their label (leave-one-out, exact).

Puigcerver et al. 2020 and Sokolski's sweep: k = 1, Euclidean, on the target's training images. Chunks of products of matrices
propose candidates in float32; distances that decide are then computed as differences, in float64, and where candidates are
not sure to be all that matter, to all images. Equal distances go to the
image with the lower index, equal votes to the lower label. Exact duplicates flatter the score: `duplicates` counts them.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.transfer.score import checked_features
from writers.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = ("features",)
CHUNK = 1024  # images whose distances to all others are in memory at once: [CHUNK, N] float32
NEIGHBOURS = (1, 5, 20)
SLACK = 1e-5  # of squared norms: more than float32 gets a squared distance wrong by
SPARE = 16  # candidates beyond k: float32 may order nearly equal distances wrongly


def score(
    *,
    features: Any,
    probs: Any = None,
    labels: Any,
    k: int = 1,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    device: str = "cpu",
) -> float:
    """Leave-one-out accuracy, in [0, 1]. features [N, D], labels [N], N above k. Raises UserError for what does not fit."""
    matrix, classes, num_classes = checked_features(features, labels)
    if not 1 <= k < len(matrix):
        raise UserError(f"k is {k}; it must be at least 1 and less than the {len(matrix)} images.")
    return _accuracy(nearest(matrix, k, metric=metric, device=device), classes, num_classes)


def variants(
    *, features: Any, probs: Any = None, labels: Any, device: str = "cpu"
) -> dict[str, float]:
    """`knn` (k = 1), `knn_k5` and `knn_k20` (where there are that many others), and `knn_cosine` (k = 1), by two searches."""
    matrix, classes, num_classes = checked_features(features, labels)
    if len(matrix) < 2:
        raise UserError("There is one image: it has no neighbour.")
    asked = [k for k in NEIGHBOURS if k < len(matrix)]
    neighbours = nearest(matrix, max(asked), device=device)
    found = {
        "knn" if k == 1 else f"knn_k{k}": _accuracy(neighbours[:, :k], classes, num_classes)
        for k in asked
    }
    found["knn_cosine"] = _accuracy(
        nearest(matrix, 1, metric="cosine", device=device), classes, num_classes
    )
    return found


def _accuracy(neighbours: np.ndarray, classes: np.ndarray, num_classes: int) -> float:
    """Of the majority among each row's neighbours [N, k]; of equal votes the lower label's."""
    votes = np.zeros((len(classes), num_classes), np.int32)
    np.add.at(votes, (np.arange(len(classes))[:, None], classes[neighbours]), 1)
    return float((votes.argmax(axis=1) == classes).mean())


def nearest(
    features: np.ndarray, k: int, *, metric: str = "euclidean", device: str = "cpu"
) -> np.ndarray:
    """Of each row the k nearest others, nearest first: int64 [N, k]."""
    import torch

    given = np.asarray(features, np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(given, axis=1, keepdims=True)
        given = given / np.where(norms > 0, norms, 1)
    exact = torch.as_tensor(given, device=device)
    rough = (
        exact - exact.mean(dim=0)
    ).float()  # smaller norms, less cancellation; distances stay as they are
    found = [
        _of_chunk(rough, exact, start, min(CHUNK, len(rough) - start), k)
        for start in range(0, len(rough), CHUNK)
    ]
    return torch.cat(found).cpu().numpy()


def duplicates(features: Any) -> int:
    """How many rows are exactly equal to an earlier one."""
    matrix = np.ascontiguousarray(features)
    return len(matrix) - len({row.tobytes() for row in matrix})


def _of_chunk(rough: "Tensor", exact: "Tensor", start: int, length: int, k: int) -> "Tensor":
    import torch

    rows = slice(start, start + length)
    squares = (rough**2).sum(dim=1)
    distances = squares[None, :] - 2 * rough[rows] @ rough.T + squares[rows, None]
    distances[torch.arange(length), torch.arange(start, start + length)] = torch.inf
    farthest, candidates = distances.topk(min(k + SPARE, len(rough) - 1), dim=1, largest=False)
    found, reach = _order(exact, exact[rows], candidates.sort(dim=1).values, k)
    if (
        candidates.shape[1] < len(rough) - 1
    ):  # those outside may be as near: equal distances, in large numbers
        norms = squares[
            rows
        ].sqrt()  # who is within reach has a norm of at most its own and the reach together
        slack = SLACK * (squares[rows] + (norms + reach.sqrt()) ** 2)
        for row in (farthest[:, -1] - slack <= reach).nonzero()[:, 0].tolist():
            others = torch.arange(len(rough), device=exact.device)
            others = others[others != start + row][None, :]
            found[row] = _order(exact, exact[start + row][None, :], others, k)[0][0]
    return found


def _order(
    exact: "Tensor", rows: "Tensor", candidates: "Tensor", k: int
) -> "tuple[Tensor, Tensor]":
    """Of the candidates [n, c], in rising order, the k nearest [n, k], and the squared distance [n] of the last of them."""
    import torch

    if len(rows) == 1:
        true = ((exact[candidates[0]] - rows) ** 2).sum(dim=1)[None, :]
    else:  # a column at a time: [n, c, D] would not fit
        columns = range(candidates.shape[1])
        true = torch.stack(
            [((exact[candidates[:, column]] - rows) ** 2).sum(dim=1) for column in columns], dim=1
        )
    nearest_first = true.sort(dim=1, stable=True)  # stable: ties go to the lower index
    return candidates.gather(1, nearest_first.indices[:, :k]), nearest_first.values[:, k - 1]
