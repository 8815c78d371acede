"""Counts of training images, for subsets that limit their number."""

from writers.beton.store import Beton, open_beton


def training_images(beton: Beton) -> dict[str, int] | None:
    """Return the number of training images of each class.

    Args:
        beton: the `.beton` file of any split.

    Returns:
        Class -> number of images; None if the beton is not of train and train.beton is not in the
        same folder.
    """
    if beton.manifest.split != "train":
        train = beton.path.with_name("train.beton")
        if not train.exists():
            return None
        beton = open_beton(train)
    return dict(zip(beton.manifest.classes, beton.manifest.class_counts, strict=True))
