"""Draw scenes of one to four objects with boxes, in the layout of PASCAL VOC's detection task.

Color and shape of an object determine which of five classes it has. Some small, faded objects are
marked as difficult. An object may cover a part of an earlier one; the box of the earlier object
includes the covered part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from writers.synthetic.generate import as_jpeg, new_canvas
from writers.synthetic.objects import second_color
from writers.synthetic.renderer import Canvas, Field, cross, disc, hsv, plain, ring, square, star


class _Look(NamedTuple):
    """Shape and color of a class. Hue, saturation and brightness are in 0..1."""

    shape: Field
    hue: float
    saturation: float
    brightness: float


LOOKS = {
    "blue-disc": _Look(disc, 0.6, 0.85, 0.85),
    "green-square": _Look(square, 0.36, 0.85, 0.75),
    "red-star": _Look(star(5, 0.5), 0.0, 0.9, 0.85),
    "white-ring": _Look(ring, 0.0, 0.05, 0.95),
    "yellow-cross": _Look(cross, 0.15, 0.85, 0.9),
}
CLASSES = list(LOOKS)
MAX_OBJECTS = 4  # per image
MAX_OVERLAP = 0.2  # largest intersection over union with the box of an earlier object
DIFFICULT = 0.15  # fraction of difficult objects, except for the first object of an image
TRIES = 20  # places to try before an object is left out


class DrawnObject(NamedTuple):
    """An object of an image: class, box in pixels (right and bottom exclusive), difficult flag."""

    name: str
    box: tuple[int, int, int, int]
    is_difficult: bool


def draw_scene(key: str) -> tuple[Canvas, list[DrawnObject]]:
    """Draw an image that depends only on the key; return it and its objects."""
    canvas = new_canvas(key)
    rng = canvas.rng
    drawn: list[DrawnObject] = []
    for number in range(int(rng.integers(1, MAX_OBJECTS + 1))):
        is_difficult = number > 0 and bool(rng.uniform() < DIFFICULT)
        name = CLASSES[int(rng.integers(len(CLASSES)))]
        box = _draw_object(canvas, LOOKS[name], [other.box for other in drawn], is_difficult)
        if box is not None:
            drawn.append(DrawnObject(name, box, is_difficult))
    return canvas, drawn


def write_scenes(folder: Path, name: str, num_images: dict[str, int]) -> None:
    """Write images, annotations and an image set per split.

    Args:
        folder: an existing folder, which becomes the root of the layout.
        name: name of the set, which is part of the seed of each image.
        num_images: image set -> number of images.
    """
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    first = 1
    for split, number in num_images.items():
        images = [f"{index:06}" for index in range(first, first + number)]
        for image in images:
            canvas, drawn = draw_scene(f"{name}/{image}")
            (folder / "JPEGImages" / f"{image}.jpg").write_bytes(as_jpeg(canvas))
            annotation = _annotation(image, canvas, drawn)
            (folder / "Annotations" / f"{image}.xml").write_text(annotation)
        listed = "".join(f"{image}\n" for image in images)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
        first += number


def _draw_object(
    canvas: Canvas, look: _Look, others: list[tuple[int, int, int, int]], is_difficult: bool
) -> tuple[int, int, int, int] | None:
    """Draw an object that hardly overlaps others; return its box, or None if no place is found."""
    rng = canvas.rng
    for _ in range(TRIES):
        radius = rng.uniform(0.07, 0.1) if is_difficult else rng.uniform(0.13, 0.3)
        center, angle = canvas.random_place(radius), rng.uniform(0, 2 * np.pi)
        box = canvas.extent(look.shape, center, radius, angle)
        if box is not None and all(_overlap(box, other) <= MAX_OVERLAP for other in others):
            main = hsv(look.hue + rng.normal(0, 0.012), look.saturation, look.brightness)
            colors = main, second_color(rng)
            opacity = 0.5 if is_difficult else 1.0
            canvas.draw(look.shape, plain, colors, center, radius, angle, opacity=opacity)
            return box
    return None


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the intersection over union of two boxes."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    both = max(0, across) * max(0, down)
    areas = ((sides[2] - sides[0]) * (sides[3] - sides[1]) for sides in (box, other))
    return both / (sum(areas) - both)


def _annotation(image: str, canvas: Canvas, drawn: list[DrawnObject]) -> str:
    """Return an annotation in VOC's format, which counts pixels from 1 and includes the last."""
    root = ElementTree.Element("annotation")
    _add(root, {"filename": f"{image}.jpg"})
    size = ElementTree.SubElement(root, "size")
    _add(size, {"width": canvas.width, "height": canvas.height, "depth": 3})
    for thing in drawn:
        element = ElementTree.SubElement(root, "object")
        _add(element, {"name": thing.name, "difficult": int(thing.is_difficult)})
        left, top, right, bottom = thing.box
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        _add(ElementTree.SubElement(element, "bndbox"), sides)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(element: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(element, tag).text = str(value)
