"""Grocery Store: 81 kinds of fruit, vegetables and packages, photographed with phones in shops."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="grocery",
    title="Grocery Store",
    metric="top1",
    num_classes=81,
    split_sizes={"train": 2640, "val": 296, "test": 2485},
    license="MIT",
    citation=(
        "Klasson, Zhang and Kjellstroem 2019, A hierarchical grocery store image dataset with "
        "visual and semantic labels"
    ),
    where="github.com/marcusklasson/GroceryStoreDataset, as class folders train/<class>/*.jpg, "
    "val/ and test/; val lacks 21 "
    "of the classes",
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return open_source(path, settings, name="grocery")
