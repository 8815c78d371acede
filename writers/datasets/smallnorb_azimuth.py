"""Small NORB, azimuth of the camera: 18 angles, 20 degrees apart. VTAB's task `label_azimuth`."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import _smallnorb
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="smallnorb_azimuth",
    title="Small NORB, azimuth",
    metric="top1",
    num_classes=18,
    protocols=("vtab",),
    folder="smallnorb",
    split_sizes=_smallnorb.SPLIT_SIZES,
    license=_smallnorb.LICENSE,
    citation=_smallnorb.CITATION,
    where=_smallnorb.WHERE,
    downloads=_smallnorb.DOWNLOADS,
)

CLASSES = [str(degrees) for degrees in range(0, 360, 20)]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return _smallnorb.open_smallnorb(
        path, settings, "smallnorb_azimuth", column=2, step=2, classes=CLASSES
    )
