"""Generated scenes of several objects, 10 classes from red to green: a small downstream dataset.

Pretraining on synthetic_things helps here, with or without the hard classes of synthetic_things.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings
from writers.synthetic.version import VERSION

if TYPE_CHECKING:
    from writers.synthetic.generate import SyntheticSet

NUM_IMAGES = {"train": 30, "val": 10, "test": 20}

SPEC = DatasetSpec(
    name="synthetic_scenes",
    title="Synthetic scenes",
    metric="top1",
    num_classes=10,
    split_sizes={split: 10 * number for split, number in NUM_IMAGES.items()},
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
    from writers.synthetic.scenes import CLASSES

    return SyntheticSet(SPEC.name, CLASSES, NUM_IMAGES)
