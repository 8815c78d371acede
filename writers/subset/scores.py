"""Scores of source classes and of source images, by which steps of a subset choose.

Scores are computed by a stage of the recipe, or read from a CSV file. A class with a high score is
useful for the target (downstream dataset). An image with a high score is hard, or is in a cluster
that is useful for the target.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from writers.errors import UserError
from writers.subset.lists import read_numbers

if TYPE_CHECKING:
    import numpy as np

Method = Literal[
    "el2n", "forgetting", "prototypes", "label_mapping", "feature_mapping", "influence"
]

Part = Literal["hardest", "easiest", "middle"]  # part of the images, by score


MAX_CLUSTER = 2**53  # clusters have smaller numbers; larger ones are not exact in float64

SEEN_SPLITS = ("train", "val")  # splits of targets that a selection may use; never test


@dataclass(frozen=True)
class ScoreRequest:
    """Scores that a step needs from the recipe.

    Attributes:
        method: name of the formula in `writers/subset/formulas/`.
        targets: targets whose train and val images the scores depend on; empty if there are none.
        clusters: number of k-means clusters. None means the number of classes of the source.
        seed: seed of the clusters.
    """

    method: Method
    targets: tuple[str, ...] = ()
    clusters: int | None = None
    seed: int = 0

    @property
    def role(self) -> str:
        """Key of these scores in `Stage.needs`, the inputs of the stage that uses them."""
        parts = [self.method, *self.targets]
        parts += [f"clusters {self.clusters}"] if self.clusters else []
        return ":".join([*parts, *([f"seed {self.seed}"] if self.seed else [])])


@dataclass(frozen=True)
class ClassScores:
    """Score of each class, and the ends of its 95 % interval (NaN if it has no interval).

    Attributes:
        value: class -> score; higher is better.
        low_95: class -> lower end.
        high_95: class -> upper end.
        source: origin of the scores, for messages.
        tie_break: class -> number that orders equal scores; higher is better. If empty,
            class names order equal scores.
    """

    value: Mapping[str, float]
    low_95: Mapping[str, float]
    high_95: Mapping[str, float]
    source: str
    tie_break: Mapping[str, float] = field(default_factory=dict)

    def ranked(self, classes: Collection[str]) -> list[str]:
        """Order classes by score, the highest first, then by tie-break, then by name.

        A NaN is ordered like 0, which for an influence means neither helpful nor harmful.
        """
        return sorted(
            classes,
            key=lambda name: (
                -_known_or_zero(self.value[name]),
                -_known_or_zero(self.tie_break.get(name, 0.0)),
                name,
            ),
        )


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of training images.

    Attributes:
        ids: uint64 [N].
        values: float64 [N]; for feature mapping, the score of the image's cluster.
        clusters: int64 [N]. None means images are not clustered.
        source: origin of the scores, for messages.
    """

    ids: "np.ndarray"
    values: "np.ndarray"
    clusters: "np.ndarray | None"
    source: str

    @cached_property
    def digest(self) -> str:
        """sha256 of ids, values and clusters. It does not depend on the order of the images."""
        order = self.ids.argsort(kind="stable")
        arrays = [self.ids, self.values, *([] if self.clusters is None else [self.clusters])]
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(array[order].tobytes())
        return digest.hexdigest()

    def positions(self, ids: "np.ndarray") -> "np.ndarray":
        """Return the index of each of `ids` (uint64 [M]) in the arrays, int64 [M].

        Raises:
            UserError: an image has no score.
        """
        import numpy as np

        order = self.ids.argsort(kind="stable")
        place = np.searchsorted(self.ids[order], ids)
        found = order[np.minimum(place, len(order) - 1)] if len(order) else place
        missing = int((self.ids[found] != ids).sum()) if len(order) else len(ids)
        if missing:
            raise UserError(
                f"{missing} of {len(ids)} training images have no score in {self.source}.",
                "Compute the scores on all images of the source.",
            )
        return found


Scores = ClassScores | ImageScores


def _known_or_zero(number: float) -> float:
    return 0.0 if math.isnan(number) else number


def read_class_scores(path: Path) -> ClassScores:
    """Read a CSV file with the columns class, score and, if known, low_95, high_95, tie_break.

    Raises:
        UserError: a line is not a class with numbers; the message gives the line.
    """
    rows = _read(path, ("class", "score"), ("low_95", "high_95", "tie_break"))

    def column(name: str, default: float) -> dict[str, float]:
        return {key: values.get(name, default) for key, values in rows.items()}

    return ClassScores(
        column("score", math.nan),
        column("low_95", math.nan),
        column("high_95", math.nan),
        str(path),
        column("tie_break", 0.0),
    )


def read_image_scores(path: Path) -> ImageScores:
    """Read a CSV file with the columns image, score and, for clustered images, cluster.

    An image is `<class>/<name>`, or its id: 0x and 16 hexadecimal digits.

    Raises:
        UserError: a line is not an image with numbers; the message gives the line.
    """
    import numpy as np

    from writers.subset.sampling import ids_of

    rows = _read(path, ("image", "score"), ("cluster",))
    images = list(rows)
    ids = ids_of(images, path)
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    if (again := first[place] != np.arange(len(ids))).any():
        later = int(again.argmax())
        raise UserError(
            f"{path}: {images[later]} and {images[first[place[later]]]} are the same image."
        )
    clusters = np.array([values.get("cluster", math.nan) for values in rows.values()])
    is_clustered = any("cluster" in values for values in rows.values())
    if is_clustered:
        wrong = ~((clusters == np.floor(clusters)) & (np.abs(clusters) < MAX_CLUSTER))
        if wrong.any():
            place_of_first = int(wrong.argmax())
            raise UserError(
                f"{path}: the cluster of {images[place_of_first]} is "
                f"{clusters[place_of_first]:g}, not a whole number.",
                "Number the clusters from 0, and give one for each image.",
            )
    return ImageScores(
        ids,
        np.array([values["score"] for values in rows.values()]),
        clusters.astype(np.int64) if is_clustered else None,
        str(path),
    )


def _read(
    path: Path, needed: tuple[str, str], optional: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Read a table as value of the first column -> name of another column -> number."""

    def check(header: Sequence[str]) -> None:
        if tuple(header[:2]) != needed or not set(header[2:]) <= set(optional):
            raise UserError(
                f"{path}: the first line must name the columns {','.join(needed)}, then any of "
                f"{','.join(optional)}; not {','.join(header) or 'nothing'}."
            )

    header, numbers = read_numbers(path, check, optional)
    if not numbers:
        raise UserError(f"{path} has no score.")
    return {name: dict(zip(header[1:], values, strict=True)) for name, values in numbers.items()}


def hypothetical(request: ScoreRequest, classes: tuple[str, ...], ids: "np.ndarray") -> Scores:
    """Make up scores, to count a step's images before real scores exist.

    A step that selects by number or fraction keeps as many classes, or images, as with real scores;
    `feature_mapping` keeps about as many images, because real clusters differ in size. All
    influences are 0, so that `drop: negative` drops no class and `keep: positive` keeps none.
    `classes` and `ids` (uint64 [N]) are those of the source.
    """
    import numpy as np

    if request.method in ("label_mapping", "influence"):
        nothing: dict[str, Any] = dict.fromkeys(classes, math.nan)
        return ClassScores(dict.fromkeys(classes, 0.0), nothing, nothing, "nothing")
    clusters = (
        np.arange(len(ids)) % (request.clusters or len(classes))
        if request.method == "feature_mapping"
        else None
    )
    return ImageScores(ids, np.zeros(len(ids)), clusters, "nothing")
