"""Clothing dataset, small: ten kinds of clothes, photographed by many people."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="clothing",
    title="Clothing (small)",
    metric="top1",
    num_classes=10,
    split_sizes={"train": 3068, "val": 341, "test": 372},
    license="CC0",
    citation="Grigorev 2020, Clothing dataset: 5,000 images",
    where=(
        "github.com/alexeygrigorev/clothing-dataset-small, as it is: train/, validation/ and "
        "test/<class>/*.jpg"
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return open_source(path, settings, name="clothing")
