"""A small VOCdevkit/VOC2007 with images, annotations of boxes, and image sets."""

from collections.abc import Sequence
from pathlib import Path

from tests.helpers.pictures import picture

# class, difficult, xmin, ymin, xmax, ymax; pixels count from 1, and the last one is included
Object = tuple[str, int, float, float, float, float]


def annotation(size: tuple[int, int], objects: Sequence[Object]) -> str:
    """Return an annotation. Each object has a part with a box of its own, which readers ignore."""
    things = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        f"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        "</bndbox></object>"
        for name, difficult, xmin, ymin, xmax, ymax in objects
    )
    width, height = size
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{things}</annotation>"
    )


def write_devkit(
    root: Path, splits: dict[str, dict[str, tuple[tuple[int, int], Sequence[Object]]]]
) -> Path:
    """Write VOCdevkit/VOC2007 and return it.

    `splits` maps a split to its images, and an image to (width, height) and objects.
    """
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        for image, (size, objects) in images.items():
            picture(int(image), *size).save(folder / "JPEGImages" / f"{image}.jpg", quality=90)
            (folder / "Annotations" / f"{image}.xml").write_text(annotation(size, objects))
        listed = "".join(f"{image}\n" for image in images)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    return folder
