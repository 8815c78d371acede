"""Interpret values of a table of labels: texts, lists of texts, and flags of classes."""

import json
import re
from collections.abc import Sequence
from typing import Any

from writers.text_names import normalized

# Item of a list of texts in Python's notation, and the whole list. The possessive quantifiers (*+)
# keep the time linear for malformed texts.
ITEM = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_ITEM = ITEM.pattern.replace("(", "").replace(")", "")
LISTED = re.compile(rf"\[\s*+(?:(?:{_ITEM})\s*+(?:,\s*+(?:{_ITEM})\s*+)*+,?\s*+)?+\]")
FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1}


def is_missing(value: Any) -> bool:
    """Return True if a value is missing: None, blank text or NaN."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def text_of(value: Any) -> str:
    """Return a value as text: 3 for 3.0, in Unicode form NFC, without blanks at both ends."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return normalized(str(value).strip())


def flag_of(value: Any) -> int | None:
    """Return a value of a class's column as 1, 0 or -1; None if it is none of them."""
    return FLAGS.get(str(value).strip().lower())


def list_of(value: Any) -> Sequence[Any] | None:
    """Return the items of a list, or of a text such as "['cat', 'dog']"; None for other values.

    Raises:
        ValueError: a text has the brackets of a list, but is not a list.
    """
    if isinstance(value, list | tuple):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        items: list[Any] = json.loads(text)
    except (ValueError, RecursionError):
        if not LISTED.fullmatch(text):
            raise ValueError("the list is not written as ['cat', 'dog']") from None
        items = [single or double for single, double in ITEM.findall(text)]
    return items
