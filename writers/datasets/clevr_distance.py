"""CLEVR, distance of the closest object: six ranges. VTAB's task `closest_object_distance`.

The distance of an object is the third value of its `pixel_coords`. The ranges are those of
google-research/task_adaptation (data/clevr.py); they exclude their lower ends.
"""

from bisect import bisect_left
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import _clevr
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="clevr_distance",
    title="CLEVR, distance of the closest object",
    metric="top1",
    num_classes=6,
    protocols=("vtab",),
    folder="clevr",
    split_sizes=_clevr.SPLIT_SIZES,
    license=_clevr.LICENSE,
    citation=_clevr.CITATION,
    where=_clevr.WHERE,
    downloads=_clevr.DOWNLOADS,
)

THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # limits of the ranges
CLASSES = ["to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "above 10"]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return _clevr.open_clevr(path, settings, "clevr_distance", CLASSES, _label)


def _label(scene: _clevr.Scene) -> int:
    return bisect_left(THRESHOLDS, min(thing["pixel_coords"][2] for thing in scene["objects"])) - 1
