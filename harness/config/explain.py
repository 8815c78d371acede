"""Explanations of pydantic errors to the author of a recipe."""

import difflib
import json
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from harness.config.methods import available, settings_model
from harness.config.recipe import Recipe
from writers import names

Place = tuple[str | int, ...]  # ("targets", 0, "path")


def explain(detail: ErrorDetails, place: Place, values: dict[str, Any]) -> str:
    """Turn one pydantic error into a sentence for the author of the recipe.

    place: location of the error, by the keys of the recipe's `values`.
    """
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(place[:-1], values)
        if place[0] == "methods" and _is_key_of_other_method(place):
            return f"has no effect on the method {_method_at(place, values)}."
        near = _near(str(place[-1]), known)
        return f"unknown key. {near or 'Known: ' + (', '.join(known) or 'none') + '.'}"
    if kind == "missing":
        return "is missing."
    if kind == "literal_error":
        expected = context["expected"]
        return f"must be {expected}, not {value!r}. {_near(str(value), _quoted(expected))}".rstrip()
    wanted_type = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "a string",
        "tuple": "a list",
        "list": "a list",
        "dict": "a mapping",
        "model": "a mapping",
    }.get(kind.split("_")[0])
    if wanted_type and kind.split("_")[1] in ("type", "parsing", "from", "attributes"):
        shown = f"'{value}'" if isinstance(value, str) else json.dumps(value)
        shown = shown if len(shown) < 60 else f"a {type(value).__name__}"
        return f"must be {wanted_type}, not {shown}."
    message = " ".join(detail["msg"].removeprefix("Value error, ").split()).rstrip(".")
    for original, better in (
        ("Input should be", "must be"),
        ("String should", "must"),
        ("Tuple should", "must"),
    ):
        message = message.replace(original, better)
    if kind.startswith(("greater_than", "less_than")):
        return f"{message}, not {value!r}."
    return message if message.endswith("?") else f"{lower_first(message)}."


def recipe_place(loc: tuple[int | str, ...], values: Any) -> Place:
    """Convert the location of a pydantic error to a place in the recipe.

    Parts that name validators or members of a union are dropped.
    """
    place: Place = ()
    for position, part in enumerate(loc):
        if part in (
            values
            if isinstance(values, dict)
            else range(len(values))
            if isinstance(values, list)
            else ()
        ):
            values, place = values[part], (*place, part)
        elif (
            isinstance(values, dict)
            and position == len(loc) - 1
            and isinstance(part, str)
            and "[" not in part
        ):
            place = (*place, part)  # a missing key
    return place


def place_of(detail: ErrorDetails, values: Any) -> Place:
    """Place of an error in the recipe; a setting without effect is named in the error's context."""
    field = detail.get("ctx", {}).get("field") if detail["type"] == "no_effect" else None
    return recipe_place(detail["loc"], values) + ((field,) if field is not None else ())


def _keys(place: Place, values: dict[str, Any]) -> list[str]:
    """List the keys that the settings allow at `place`."""
    if place[:1] == ("methods",) and len(place) > 1:
        return _keys_below(settings_model(_method_at(place, values)), place[2:])
    return _keys_below(Recipe, place)


def _keys_below(annotation: Any, place: Place) -> list[str]:
    for part in place:
        models = list(_models(annotation))
        inner = [
            model.model_fields[part].annotation for model in models if part in model.model_fields
        ]
        # Otherwise the part is an index, or the label of a variant: it is unwrapped already.
        annotation = inner[0] if inner else annotation
    return sorted({name for model in _models(annotation) for name in model.model_fields})


def _method_at(place: Place, values: dict[str, Any]) -> str:
    """Name of the method whose settings `place` is in."""
    label = str(place[1])
    return method_name(label, values["methods"][label])


def method_name(label: Any, settings: Any) -> str:
    """Name of the method that a recipe means by an entry of `methods`."""
    name = settings.get("method") if isinstance(settings, dict) else None
    return names.normalize(str(name or label))


def _is_key_of_other_method(place: Place) -> bool:
    """Return whether the last part of `place` is a setting of another method."""
    return any(place[-1] in _keys_below(settings_model(name), place[2:-1]) for name in available())


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not typing.get_args(annotation)
        and issubclass(annotation, BaseModel)
    ):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _quoted(expected: str) -> list[str]:
    return expected.split("'")[1::2]


def lower_first(text: str) -> str:
    """Return the text with a lower-case first letter, to follow a colon."""
    return text[:1].lower() + text[1:]
