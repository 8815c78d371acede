"""Read the label of a record: a number, a name, or a list of them if images have several labels."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from writers.errors import UserError
from writers.found_images import Images
from writers.text_names import normalized

MAX_DIGITS = 18  # digits of a number that surely fits in int64; longer texts are names


def is_label(value: Any) -> bool:
    """Return True if a value is a whole number or a text that is not blank."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.strip() != ""
    )


def number_or_name(label: int | str) -> int | str:
    """Return a text of digits as a number, and other text as a name in Unicode form NFC."""
    is_number = re.fullmatch(rf"\d{{1,{MAX_DIGITS}}}", str(label), re.ASCII)
    return int(label) if is_number else normalized(str(label))


def refuse_negative(label: int | str, where: str) -> None:
    """Raise UserError for a negative number. Callers handle -1, which means no label, before."""
    if re.fullmatch(r"-\d+", str(label), re.ASCII):
        raise UserError(
            f"{where} has the label {label}; labels are numbers from 0, or names.",
            "Label it -1 to leave it out.",
        )


def listed(labels: Sequence[Any], where: str) -> list[int | str]:
    """Check and return the labels of a list.

    Raises:
        UserError: an item is not a label, or is repeated, as in a list of 0 and 1 per class.
    """
    for label in labels:
        if not is_label(label) or str(label).startswith("-"):
            raise UserError(
                f"{where} has a list of labels with {label!r} in it.",
                "A list holds numbers or names of classes.",
            )
    if len(set(labels)) < len(labels):
        raise UserError(
            f"{where} has the label {next(x for x in labels if labels.count(x) > 1)!r} twice in "
            "its list.",
            "A list holds the numbers or names of the classes that are present, not a 0 or 1 for "
            "each class.",
        )
    return [number_or_name(label) for label in labels]


def with_lists(
    splits: Mapping[str, Images], several: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]] | None:
    """Return the classes of each image, by key, if some images have a list of labels.

    Args:
        splits: images by split, with one class each.
        several: classes of the images with a list, by key.

    Returns:
        None if no image has a list.
    """
    if not several:
        return None
    return {
        key: several.get(key, (class_name,))
        for images in splits.values()
        for key, (class_name, _) in images.items()
    }
