"""CLEVR, number of objects: 3 to 10, eight classes. VTAB's task `count_all`."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import _clevr
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="clevr_count",
    title="CLEVR, number of objects",
    metric="top1",
    num_classes=8,
    protocols=("vtab",),
    folder="clevr",
    split_sizes=_clevr.SPLIT_SIZES,
    license=_clevr.LICENSE,
    citation=_clevr.CITATION,
    where=_clevr.WHERE,
    downloads=_clevr.DOWNLOADS,
)

CLASSES = [str(number) for number in range(3, 11)]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return _clevr.open_clevr(
        path, settings, "clevr_count", CLASSES, lambda scene: len(scene["objects"]) - 3
    )
