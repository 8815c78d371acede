"""Record of a write stage. Imports no torch."""

from typing import NotRequired

from typing_extensions import TypedDict


class WrittenSplit(TypedDict):
    """One beton."""

    path: str  # relative to the data folder
    num_samples: int
    bytes: int
    sha256: str


class WrittenSubset(TypedDict):
    """The subset of classes."""

    name: str
    num_classes: int
    digest: str
    # label -> its classes of the source, if labels are coarser
    groups: NotRequired[list[list[str]]]


class WriteMetrics(TypedDict):
    """Metrics of a write stage."""

    splits: dict[str, WrittenSplit]
    classes: list[str]  # in label order
    img_per_s: float | None  # of the images that were encoded; None means all were copied
    subset: WrittenSubset


class WriteTiming(TypedDict, total=False):
    """Timing of a write stage."""

    # split -> beton that it was copied from, relative to the data folder
    copied_from: dict[str, str]
