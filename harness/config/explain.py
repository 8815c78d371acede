"""Explain pydantic's errors to the author of a recipe."""

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.config.methods import available, settings_model
from harness.config.recipe import Recipe
from writers import names
from writers.settings_errors import sentence, shown, wanted

Place = tuple[str | int, ...]  # ("targets", 0, "path")


def mistakes_of(
    error: ValidationError, values: dict[str, Any], below: Place = ()
) -> list[tuple[Place, str]]:
    """List the mistakes that pydantic found, one per place.

    If a value fits no member of a union, pydantic reports an error for each member. If items of a
    list are wrong, it also reports that the list is too short. So errors of a place are dropped if
    a place inside it has errors, and all errors of one place become one sentence.

    Args:
        error: raised by a model of the recipe.
        values: plain values, which contain the validated ones at the place `below`.
        below: place of the model in `values`.
    """
    found: dict[Place, list[ErrorDetails]] = {}
    for detail in _of_fitting_members(error.errors(include_url=False), below, values):
        place = place_of({**detail, "loc": (*below, *detail["loc"])}, values)
        found.setdefault(place, []).append(detail)
    outer = {place[:length] for place in found for length in range(len(place))}
    return [
        (place, _sentence(details, place, values))
        for place, details in found.items()
        if place not in outer
    ]


def _of_fitting_members(
    details: Sequence[ErrorDetails], below: Place, values: dict[str, Any]
) -> list[ErrorDetails]:
    """Drop errors of union members whose keys do not fit, if the keys of another member fit."""
    members: dict[tuple[int | str, ...], dict[int | str, bool]] = {}  # union -> member -> fits
    for detail in details:
        for union, member in _members_in(detail["loc"], below, values):
            fits = detail["type"] not in ("missing", "extra_forbidden")
            of_union = members.setdefault(union, {})
            of_union[member] = of_union.get(member, True) and fits
    return [
        detail
        for detail in details
        if all(
            members[union][member] or not any(members[union].values())
            for union, member in _members_in(detail["loc"], below, values)
        )
    ]


def _members_in(
    loc: tuple[int | str, ...], below: Place, values: Any
) -> Iterator[tuple[tuple[int | str, ...], int | str]]:
    """Find the union members that a pydantic location names; yield (place of the union, member)."""
    for part in below:
        values = values[part]
    for position, part in enumerate(loc):
        is_key = isinstance(values, dict) and part in values
        if is_key or (isinstance(values, list) and isinstance(part, int) and part < len(values)):
            values = values[part]
        elif isinstance(values, dict) and position < len(loc) - 1:
            yield loc[:position], part


def _sentence(details: Sequence[ErrorDetails], place: Place, values: dict[str, Any]) -> str:
    """Explain all errors of one place in a sentence."""
    texts = list(dict.fromkeys(filter(None, map(wanted, details))))
    # An error that is not a "must be X" explains more than the mismatches of union members.
    others = [detail for detail in details if wanted(detail) is None]
    if others or len(texts) == 1:
        return explain((others or details)[0], place, values)
    if "be a number" in texts and "be a whole number" in texts:
        texts.remove("be a whole number")
    texts.sort(key=lambda text: not text.startswith("be a"))  # types come first
    alternatives = [texts[0], *(text.removeprefix("be ") for text in texts[1:])]
    text = " or ".join(filter(None, (", ".join(alternatives[:-1]), alternatives[-1])))
    return f"must {text}, not {shown(details[0]['input'])}."


def explain(detail: ErrorDetails, place: Place, values: dict[str, Any]) -> str:
    """Turn one pydantic error into a sentence for the author of the recipe.

    place: place of the error in `values`.
    """
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _keys(place[:-1], values)
        if place[0] == "methods" and _is_key_of_other_method(place):
            return f"has no effect on the method {_method_at(place, values)}."
        near = _near(str(place[-1]), known)
        return f"unknown key. {near or 'Known: ' + (', '.join(known) or 'none') + '.'}"
    if kind == "model_type" and detail["ctx"]["class_name"] == "DataSettings":
        return sentence(detail, _dataset_hint(value))
    accepted = _quoted(wanted(detail) or "")
    return sentence(detail, _near(value, accepted) if isinstance(value, str) else "")


def _dataset_hint(value: Any) -> str:
    """Show how to write a dataset that is given by its name or folder only."""
    is_name = isinstance(value, str) and re.fullmatch(r"[\w./~-]{1,60}", value)
    return f"Write {{dataset: {value}}}, or {{path: {value}}} for a folder." if is_name else ""


def recipe_place(loc: tuple[int | str, ...], values: Any) -> Place:
    """Convert the location of a pydantic error to a place in the recipe.

    Drops the parts of the location that name validators or members of a union.
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
    """Place of an error in the recipe. The error's context may name a setting without effect."""
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
        # If no model has the field, the part is an index or the label of a variant. `_models` finds
        # the models inside lists and mappings, so the annotation stays.
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
