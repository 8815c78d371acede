"""Drawn objects, 30 classes: a source dataset that needs no download, for examples and for trying a recipe out.

About twenty classes are easily told apart by shape, texture and colour. The other ten come in groups that differ in a
single thing (the number of corners or points, the stripes' spacing or slant), so that hard classes exist.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings

if TYPE_CHECKING:
    from writers.synthetic.generate import SyntheticSet

NUM_IMAGES = {"train": 50, "val": 20}

SPEC = DatasetSpec(
    name="synthetic_things",
    title="Synthetic things",
    metric="top1",
    num_classes=30,
    split_sizes={split: 30 * number for split, number in NUM_IMAGES.items()},
    licence="MIT, as this program",
    where="made on first use, in the folder that is named",
    generated=True,
)


def open(path: Path, settings: SplitSettings) -> Source:
    from writers.synthetic.generate import open_synthetic

    return open_synthetic(path, settings, pictures())


def pictures() -> "SyntheticSet":
    """What it is made of. Only now: drawing takes numpy, which the specification can do without."""
    from writers.synthetic.generate import SyntheticSet
    from writers.synthetic.things import CLASSES

    return SyntheticSet(SPEC.name, CLASSES, NUM_IMAGES)
