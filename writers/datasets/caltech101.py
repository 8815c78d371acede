"""Caltech-101: 101 classes of 31 to 800 photographs; the background class is left out. Splits are carved by a seeded draw."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="caltech101", title="Caltech-101", metric="mean_per_class", num_classes=101, licence="CC BY 4.0",
    citation="Fei-Fei, Fergus and Perona 2004, Learning generative visual models from few training examples",
    where="https://data.caltech.edu/records/mzrjq-6wc02: 101_ObjectCategories/, as it is or in an uncompressed tar")

BACKGROUND = "BACKGROUND_Google"


def open(path: Path, settings: SplitSettings) -> Source:
    return open_source(path, settings, name="caltech101", exclude=[BACKGROUND])
