"""Generated objects, 30 classes: a dataset to pretrain on without download, to try out recipes.

Six classes are hard by construction; writers/synthetic/objects.py describes which and why.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings
from writers.synthetic.version import VERSION

if TYPE_CHECKING:
    from writers.synthetic.generate import SyntheticSet

NUM_IMAGES = {"train": 50, "val": 20}

SPEC = DatasetSpec(
    name="synthetic_things",
    title="Synthetic things",
    metric="top1",
    num_classes=30,
    split_sizes={split: 30 * number for split, number in NUM_IMAGES.items()},
    license="MIT, as this program",
    where="generated on first use, in the given folder",
    generated=True,
    version=VERSION,
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    from writers.synthetic.generate import open_synthetic

    return open_synthetic(path, settings, pictures())


def pictures() -> "SyntheticSet":
    """Return how to draw the images. Imports are inside, so that SPEC is read without numpy."""
    from writers.synthetic.generate import SyntheticSet
    from writers.synthetic.objects import CLASSES

    return SyntheticSet(SPEC.name, CLASSES, NUM_IMAGES)
