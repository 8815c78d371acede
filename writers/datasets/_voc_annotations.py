"""Annotations of PASCAL VOC: an XML file per image, with a box around each object."""

import math
from collections.abc import Collection
from typing import NamedTuple
from xml.etree import ElementTree

from writers.datasets._voc import AGAIN
from writers.errors import UserError
from writers.formats.files import Files
from writers.text_names import printable

MAX_ANNOTATION = 1 << 20  # maximum bytes of a file; VOC's annotations have less than 50,000


class Box(NamedTuple):
    """A box in pixels of an image. `right` and `bottom` are exclusive."""

    left: float
    top: float
    right: float
    bottom: float


class AnnotatedObject(NamedTuple):
    """An object of an annotation.

    Attributes:
        name: name of its class.
        box: its box.
        is_difficult: its difficult flag.
        image_size: width and height of the image according to the annotation.
    """

    name: str
    box: Box
    is_difficult: bool
    image_size: tuple[float, float]


def read_annotation(
    files: Files, name: str, only: Collection[str] | None = None
) -> dict[int, AnnotatedObject]:
    """Read an annotation: map the number of each object, from 1, to the object.

    Args:
        files: files of the release.
        name: name of the annotation.
        only: classes to read; other objects are skipped without being checked. None means all.

    Raises:
        UserError: the file is unreadable or damaged, or a box is empty or outside of the image.
    """
    where = files.where(name)
    try:
        data = files.read(name)
        if len(data) > MAX_ANNOTATION:
            raise ValueError(f"it has {len(data):,} bytes, more than {MAX_ANNOTATION:,}")
        if b"<!" in data:  # VOC's annotations do not declare entities, which can be harmful
            raise ValueError("it has a comment, CDATA or a declaration, which VOC's do not have")
        # Decode here, so that the parser ignores the encoding that the file declares: UTF-16 could
        # hide a declaration from the check above, and other encodings may be unknown.
        root = ElementTree.fromstring(data.decode("utf-8-sig", "replace"))
        if root.tag != "annotation":
            raise ValueError("it is not an annotation of VOC")
        size = _number_in(root, "size/width"), _number_in(root, "size/height")
        return {
            number: _object(number, thing, *size)
            for number, thing in enumerate(root.findall("object"), start=1)
            if only is None or thing.findtext("name") in only
        }
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}.", AGAIN) from error
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{where} cannot be read as an annotation: {error}.", AGAIN) from error


def _object(
    number: int, thing: ElementTree.Element, width: float, height: float
) -> AnnotatedObject:
    name, difficult = (thing.findtext(tag, "").strip() for tag in ("name", "difficult"))
    if not name:
        raise ValueError(f"object {number} has no name")
    if difficult not in ("", "0", "1"):
        raise ValueError(f"difficult of object {number} is '{printable(difficult)[:40]}'")
    xmin, ymin, xmax, ymax = (
        _number_in(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    # VOC counts pixels from 1 and includes the last one.
    box = Box(xmin - 1, ymin - 1, xmax, ymax)
    for low, high, side in ((box.left, box.right, width), (box.top, box.bottom, height)):
        # annotators' rounding may exceed the image by one pixel on either side
        if not (low >= -1 and low < high and high <= side + 1 and max(low, 0) < min(high, side)):
            raise ValueError(f"object {number} is from {low + 1:g} to {high:g} of {side:g} px")
    return AnnotatedObject(name, box, difficult == "1", (width, height))


def _number_in(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path} is {text!r:.40}, not a number")
    return value
