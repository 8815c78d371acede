"""Generated dark objects with patterns, 8 classes from olive to blue: a small downstream dataset.

Frozen features of a model pretrained on synthetic_things transfer to this dataset only if the hard
classes of synthetic_things were included.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings
from writers.synthetic.version import VERSION

if TYPE_CHECKING:
    from writers.synthetic.generate import SyntheticSet

NUM_IMAGES = {"train": 20, "val": 20, "test": 40}

SPEC = DatasetSpec(
    name="synthetic_patterns",
    title="Synthetic patterns",
    metric="top1",
    num_classes=8,
    split_sizes={split: 8 * number for split, number in NUM_IMAGES.items()},
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
    from writers.synthetic.patterns import CLASSES

    return SyntheticSet(SPEC.name, CLASSES, NUM_IMAGES)
