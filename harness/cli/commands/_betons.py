"""Counts of training images, for commands that resolve subsets."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from writers.beton.store import Beton


def training_images(beton: "Beton") -> dict[str, int] | None:
    """Return the number of training images of each class, for subsets that limit their number.

    Args:
        beton: The `.beton` file of any split.

    Returns:
        Class -> number of images; None if the beton is not of train and train.beton is not in the
        same folder.
    """
    from writers.beton.store import open_beton

    if beton.manifest.split != "train":
        train = beton.path.with_name("train.beton")
        if not train.exists():
            return None
        beton = open_beton(train)
    return dict(zip(beton.manifest.classes, beton.manifest.class_counts, strict=True))
