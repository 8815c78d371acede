"""Record of a write stage. Imports no torch."""

from typing import NotRequired

from typing_extensions import TypedDict


class WrittenSplit(TypedDict):
    """A `.beton` file with the images of one split."""

    path: str  # relative to the data folder
    num_samples: int
    bytes: int
    sha256: str
    classes_without_images: NotRequired[list[str]]  # only present if there are some


class WrittenSubset(TypedDict):
    """The subset of classes."""

    name: str
    num_classes: int
    digest: str
    # Source classes of each label; only present if a label may have several of them.
    groups: NotRequired[list[list[str]]]


class WriteMetrics(TypedDict):
    """Metrics of a write stage."""

    splits: dict[str, WrittenSplit]
    classes: list[str]  # in label order
    img_per_s: float | None  # for encoded images; None means that none was encoded
    subset: WrittenSubset


class WriteTiming(TypedDict, total=False):
    """Timing of a write stage."""

    # split -> beton from which its images were copied, relative to the data folder
    copied_from: dict[str, str]
