"""dSprites, orientation: 40 angles in 16 ranges. VTAB's task `label_orientation`."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import _dsprites
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="dsprites_orientation",
    title="dSprites, orientation",
    metric="top1",
    num_classes=16,
    protocols=("vtab",),
    folder="dsprites",
    split_sizes=_dsprites.SPLIT_SIZES,
    license=_dsprites.LICENSE,
    citation=_dsprites.CITATION,
    where=_dsprites.WHERE,
    downloads=_dsprites.DOWNLOADS,
)

CLASSES = [str(label) for label in range(16)]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return _dsprites.open_dsprites(
        path, settings, "dsprites_orientation", factor=3, num_values=40, classes=CLASSES
    )
