"""What several commands ask of betons."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from writers.beton.store import Beton


def training_images(beton: "Beton") -> dict[str, int] | None:
    """Of each class, which a subset's budget is counted by, of whatever split the beton is; None: train is not beside it."""
    from writers.beton.store import open_beton

    if beton.manifest.split != "train":
        train = beton.path.with_name("train.beton")
        if not train.exists():
            return None
        beton = open_beton(train)
    return dict(zip(beton.manifest.classes, beton.manifest.class_counts, strict=True))
