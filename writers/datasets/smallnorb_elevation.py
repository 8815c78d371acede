"""Small NORB, elevation of the camera: 9 angles, 5 degrees apart. VTAB's task `label_elevation`."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import _smallnorb
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="smallnorb_elevation",
    title="Small NORB, elevation",
    metric="top1",
    num_classes=9,
    protocols=("vtab",),
    folder="smallnorb",
    split_sizes=_smallnorb.SPLIT_SIZES,
    license=_smallnorb.LICENSE,
    citation=_smallnorb.CITATION,
    where=_smallnorb.WHERE,
    downloads=_smallnorb.DOWNLOADS,
)

CLASSES = [str(degrees) for degrees in range(30, 75, 5)]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return _smallnorb.open_smallnorb(
        path, settings, "smallnorb_elevation", column=1, step=1, classes=CLASSES
    )
