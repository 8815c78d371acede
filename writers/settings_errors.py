"""Describe pydantic's errors in settings in plain English."""

import json
from typing import Any

from pydantic_core import ErrorDetails

from writers.text_names import counted

MAX_SHOWN = 60  # characters of a value in a message
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
# Model -> form, other than a mapping, in which a recipe may write it.
SHORT_FORMS = {
    "ModelSettings": "a name",
    "SubsetSpec": "a name",
    "Encoding": "a preset",
    "LabelTable": "a file, a list of files",
    "ImagesPerClass": "a number",
    "FractionOf": "a number",
    "RandomClasses": "a number",
    "ImagesByScore": "a number",
    "ClusteredImages": "a number",
}
NAME_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*$": "consist of letters, digits, dots, _ and -, and begin with a "
    "letter or digit",
    r"^[a-z0-9][a-z0-9_]*$": "consist of a-z, 0-9 and _, and not begin with _",
}


def sentence(detail: ErrorDetails, hint: str = "") -> str:
    """Describe one error, to follow the place of the value and a colon.

    Args:
        detail: the error.
        hint: a sentence to add if the value is none of those that are accepted.
    """
    if detail["type"] == "missing":
        return "is missing."
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        hint = "Put it in quotes."  # such as a class folder named 1
    if (text := wanted(detail)) is not None:
        return f"must {text}, not {shown(detail['input'])}. {hint}".rstrip()
    message = " ".join(detail["msg"].removeprefix("Value error, ").split()).rstrip(".")
    message = message.replace("Input should be", "must be").replace("String should", "must")
    return lower_first(message if message.endswith("?") else f"{message}.")


def wanted(detail: ErrorDetails) -> str | None:
    """Return what a value must be or have, to follow "must"; None for other errors."""
    kind, context = detail["type"], detail.get("ctx", {})
    first, _, rest = kind.partition("_")
    if kind == "literal_error":
        return f"be {context['expected']}"
    if kind in ("too_short", "too_long"):
        bound = "at least" if kind == "too_short" else "at most"
        number = context["min_length" if kind == "too_short" else "max_length"]
        return f"have {bound} {counted(number, 'entry')}"
    if kind == "string_pattern_mismatch":
        return NAME_PATTERNS.get(context["pattern"], f"match the pattern {context['pattern']}")
    if kind.startswith(("greater_than", "less_than")):
        return f"be {detail['msg'].removeprefix('Input should be ')}"
    if kind == "model_type" and context.get("class_name") in SHORT_FORMS:
        return f"be {SHORT_FORMS[context['class_name']]} or a mapping"
    if first in TYPES and rest.split("_")[0] in ("type", "parsing", "from", "attributes"):
        return f"be {TYPES[first]}"
    return None


def shown(value: Any) -> str:
    """Format a value: as YAML if it is short, otherwise by its type."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) < MAX_SHOWN else f"'{value[:MAX_SHOWN]}...'"
    text = json.dumps(value, default=str)
    return text if len(text) < MAX_SHOWN else "a list" if isinstance(value, list) else "a mapping"


def lower_first(text: str) -> str:
    """Return the text with a lower-case first letter, to follow a colon."""
    return text[:1].lower() + text[1:]
