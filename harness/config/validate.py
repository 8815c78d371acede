"""Turns a recipe's plain values into `Recipe`, or into one error: every mistake with its file, line and cure."""

import difflib
import json
import typing
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.config import axes
from harness.config import pretrain_presets as presets
from harness.config import transfer_presets as method_presets
from harness.config.methods import PACKAGE as METHODS
from harness.config.methods import any_needs_features, available, settings_model
from harness.config.model import ModelSettings
from harness.config.recipe import DataSettings, Recipe
from harness.config.zoo_names import is_pattern, matching
from writers import names
from writers.errors import UserError
from writers.subset.spec import SubsetSpec

Place = tuple[str | int, ...]
Origin = Callable[[Place], str]  # where a place of the recipe was written


def check(values: dict[str, Any], origin: Origin) -> Recipe:
    """The validated recipe. Raises UserError with a line for each mistake."""
    mistakes = [*_wrong_names(values), *_wrong_subsets(values)]
    values, wrong_presets = _spelled_out(values)
    mistakes += wrong_presets
    recipe = None
    try:
        # By way of JSON, in strict mode: "16" is no number, 1 is no truth value, and a list may
        # still become a tuple.
        recipe = Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        known = {place for place, _ in mistakes}
        details = [
            (_place_of(detail, values), detail) for detail in error.errors(include_url=False)
        ]
        known |= {
            ("variants", variant, *place[1:])
            for place, _ in details
            if place[:1] == ("pretrain",)
            for variant in values.get("variants", ())
        }  # what they inherit is wrong once
        mistakes += [
            (place, _explain(detail, place, values))
            for place, detail in details
            if not _inside(place, known)
        ]
    except UserError as error:  # from a validator of the writers that knows a better sentence
        if not mistakes:
            mistakes.append(((), str(error).replace("\n", " ")))
    if recipe is not None:
        mistakes += [
            *_without_effect(recipe, origin),
            *_wrong_points(recipe),
            *_wrong_for_target(recipe),
        ]
    if recipe is not None and not mistakes:
        mistakes += _wrong_for_dataset(recipe)
        if "features" in recipe.model_fields_set and not (
            recipe.scores or any_needs_features(recipe.methods.values())
        ):
            mistakes.append(
                (
                    ("features",),
                    "has no effect: no scores are asked for, and no method works on features.",
                )
            )
        recipe = _without_patterns(recipe, mistakes)
    if mistakes or recipe is None:
        raise UserError(
            "\n".join(dict.fromkeys(_line(place, what, origin) for place, what in mistakes))
        )
    return recipe


def _spelled_out(values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """The values with presets and with all that each variant takes from `pretrain`; and which presets are wrong."""
    mistakes: list[tuple[Place, str]] = []

    def of(
        place: Place,
        settings: Any,
        spelled_out: Callable[[dict[str, Any]], Any] = presets.spelled_out,
    ) -> Any:
        try:
            return spelled_out(settings) if isinstance(settings, dict) else settings
        except UserError as error:
            mistakes.append(((*place, "preset"), _first_lower(str(error).replace("\n", " "))))
            return None

    if "pretrain" in values:
        pretrain = of(("pretrain",), values["pretrain"])
        values = {**values, "pretrain": {} if pretrain is None and mistakes else pretrain}
    if isinstance(variants := values.get("variants"), dict):
        pretrain = values.get("pretrain")
        under = pretrain if isinstance(pretrain, dict) else {}
        owns = {name: of(("variants", name), own) for name, own in variants.items()}
        wrong = {place[1] for place, _ in mistakes if place[0] == "variants"}
        values = {
            **values,
            "variants": {
                name: presets.merged(under, own) if isinstance(own, dict) else own
                for name, own in owns.items()
                if name not in wrong
            },
        }
    if isinstance(methods := values.get("methods"), dict):
        asked = {
            label: of(
                ("methods", label), own, partial(method_presets.spelled_out, label=str(label))
            )
            for label, own in methods.items()
        }
        wrong = {place[1] for place, _ in mistakes if place[0] == "methods"}
        values = {
            **values,
            "methods": {
                label: {"method": available()[0]}  # so that the rest of the recipe is checked
                if label in wrong or _method_name(label, own) not in available()
                else own
                for label, own in asked.items()
            },
        }
    return values, mistakes


def _line(place: Place, what: str, origin: Origin) -> str:
    dotted = ".".join(str(part) for part in place)
    return f"{origin(place)}: {dotted}: {what}" if dotted else f"{origin(place)}: {what}"


def _wrong_names(values: dict[str, Any]) -> list[tuple[Place, str]]:
    """Datasets, architectures and methods that are no file of their catalogue; nothing of those is imported."""
    asked: list[tuple[Place, Any, str, str]] = []
    for place, data in (("source",), values.get("source")), *_items(values, "targets"):
        if isinstance(data, dict) and "dataset" in data:
            asked.append(((*place, "dataset"), data["dataset"], "dataset", "writers.datasets"))
    # Only the libraries know their own names, and torch is slow to import.
    asked += [
        (place, arch, "model", "harness.modeling.archs")
        for place, arch in _items(values, "archs")
        if not str(arch).startswith(("torchvision/", "timm/"))
    ]
    asked += [
        (place, name, "model", "harness.modeling.archs") for place, name in _packaged_models(values)
    ]
    asked += [
        (place, name, "score", "harness.transfer.scores")
        for place, name in _items(values, "scores")
    ]
    methods = values.get("methods")
    if isinstance(methods, dict):
        for label, method in methods.items():
            named = isinstance(method, dict) and "method" in method
            asked.append(
                (
                    ("methods", label, *(["method"] if named else [])),
                    method["method"] if named else label,
                    "method",
                    METHODS,
                )
            )
    mistakes = []
    for place, name, noun, package in asked:
        known = names.names(package)
        if (
            isinstance(name, str)
            and (names.normalize(name) if noun == "dataset" else name) not in known
        ):
            error = names.unknown(noun, name, known)
            mistakes.append((place, f"{_first_lower(error.message)} {error.hint}"))
    return mistakes


def _packaged_models(values: dict[str, Any]) -> Iterable[tuple[Place, Any]]:
    """Of `models`: names that must be files of harness/models."""
    for place, given in _items(values, "models"):
        entry = given if isinstance(given, dict) else {"name": given}
        key = "name" if not entry.get("checkpoint") else "arch" if entry.get("arch") else "name"
        if isinstance(name := entry.get(key), str) and "/" not in name and not is_pattern(name):
            yield (*place, key) if isinstance(given, dict) else place, name


def _without_patterns(recipe: Recipe, mistakes: list[tuple[Place, str]]) -> Recipe:
    """The recipe with the models that its patterns stand for; a name of its own goes before a pattern that fits it."""
    own = {model.name for model in recipe.models if not is_pattern(model.name)}
    models: dict[str, ModelSettings] = {}
    for index, model in enumerate(recipe.models):
        try:
            found = (
                [model.name]
                if not is_pattern(model.name)
                else [name for name in matching(model.name, model.limit) if name not in own]
            )
        except UserError as error:
            mistakes.append((("models", index), _first_lower(str(error).replace("\n", " "))))
            continue
        for name in found:
            models.setdefault(name, model.model_copy(update={"name": name, "limit": None}))
    return recipe.model_copy(update={"models": tuple(models.values())})


def _wrong_subsets(values: dict[str, Any]) -> list[tuple[Place, str]]:
    mistakes: list[tuple[Place, str]] = []
    for place, spec in _items(values, "subsets"):
        try:
            SubsetSpec.model_validate_json(json.dumps(spec), strict=True)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                inner = _place((*place, *detail["loc"]), values)
                mistakes.append((inner, _explain(detail, inner, values)))
        except UserError as error:
            mistakes.append((place, _first_lower(str(error).replace("\n", " "))))
    return mistakes


def _without_effect(recipe: Recipe, origin: Origin) -> list[tuple[Place, str]]:
    """Attack settings where nothing is attacked. A `--set eps=[0]` for a quick run is not held against the file."""
    if origin(("eps",)).startswith("--set"):
        return []
    mistakes: list[tuple[Place, str]] = []
    all_eps = {point["eps"] for point in axes.AxisSelection(recipe).models()}
    attacked = any(eps > 0 for eps in all_eps)
    if not attacked and "attack" in recipe.pretrain.model_fields_set:
        mistakes.append((("pretrain", "attack"), "has no effect: no `eps` is above 0."))
    if (
        not attacked
        and recipe.evaluate.eps_of_clean is None
        and "attack" in recipe.evaluate.model_fields_set
    ):
        mistakes.append(
            (
                ("evaluate", "attack"),
                "has no effect: no `eps` is above 0, and `eps_of_clean` is not set.",
            )
        )
    trained = recipe.variants or {"": recipe.pretrain}
    for point in axes.AxisSelection(recipe).models():
        if point["eps"] > 0 and trained[point.get("variant", "")].aux_head:
            place = (
                ("variants", point["variant"], "aux_head")
                if recipe.variants
                else ("pretrain", "aux_head")
            )
            mistakes.append(
                (place, "goes with clean training only; leave out `eps` above 0, or exclude it.")
            )
            break
    if 0 not in all_eps and recipe.evaluate.eps_of_clean is not None:
        mistakes.append(
            (("evaluate", "eps_of_clean"), "has no effect: `eps` has no 0, so no model is clean.")
        )
    return mistakes


def _wrong_points(recipe: Recipe) -> list[tuple[Place, str]]:
    """Entries of `exclude` and `include` that name what the recipe does not have, or that change nothing."""
    mistakes: list[tuple[Place, str]] = []
    for key in ("exclude", "include"):
        for number, entry in enumerate(getattr(recipe, key)):
            for axis, value, known in axes.unknown_values(recipe, entry, added=key == "include"):
                error = names.unknown(f"{axis} of this recipe", str(value), map(str, known))
                mistakes.append(
                    ((key, number, axis), f"{_first_lower(error.message)} {error.hint}")
                )
    if not mistakes:
        exclude, include = axes.AxisSelection(recipe).idle_entries()
        mistakes += [
            (("exclude", number), "has no effect: no point of the recipe is what it says.")
            for number in exclude
        ]
        mistakes += [
            (("include", number), "has no effect: the recipe has all of its points already.")
            for number in include
        ]
    return mistakes


def _wrong_for_target(recipe: Recipe) -> list[tuple[Place, str]]:
    """Settings of a method for one dataset that do not fit the others."""
    mistakes: list[tuple[Place, str]] = []
    for label, settings in recipe.methods.items():
        for dataset, own in settings.per_target.items():
            place = ("methods", label, "per_target", dataset)
            if names.normalize(dataset) not in names.names("writers.datasets"):
                error = names.unknown("dataset", dataset, names.names("writers.datasets"))
                mistakes.append((place, f"{_first_lower(error.message)} {error.hint}"))
            values = {"methods": {label: {"method": settings.method, **own}}}
            try:
                settings.for_target(dataset)
            except ValidationError as wrong:
                for detail in wrong.errors(include_url=False):
                    inner = ("methods", label, *_place_of(detail, own))
                    mistakes.append(((*place, *inner[2:]), _explain(detail, inner, values)))
    return mistakes


def _wrong_for_dataset(recipe: Recipe) -> list[tuple[Place, str]]:
    """Datasets whose images have many labels where only one is of use, metrics of the other kind, splits they do not have."""
    mistakes: list[tuple[Place, str]] = []
    targets: list[tuple[Place, DataSettings]] = [
        (("targets", index), data) for index, data in enumerate(recipe.targets)
    ]
    source: list[tuple[Place, DataSettings]] = (
        [(("source",), recipe.source)] if recipe.source else []
    )
    for place, data in (*source, *targets):
        spec = names.find("writers.datasets", data.dataset, "dataset").SPEC
        own = spec.metric
        if data.protocol not in (None, *spec.protocols):
            known = ", ".join(spec.protocols) or "its own splits only"
            mistakes.append(
                (
                    (*place, "protocol"),
                    f"{data.dataset} has no splits called '{data.protocol}'. Known: {known}.",
                )
            )
        if place == ("source",) and own == "map11":
            mistakes.append(
                (
                    (*place, "dataset"),
                    f"images of {data.dataset} have many labels: a target, and no source.",
                )
            )
        elif data.metric is not None and (data.metric == "map11") != (own == "map11"):
            number = "many labels" if own == "map11" else "one label"
            mistakes.append(
                (
                    (*place, "metric"),
                    f"{data.metric} does not fit {data.dataset}, whose images have {number}.",
                )
            )
    return mistakes


def _explain(detail: ErrorDetails, place: Place, values: dict[str, Any]) -> str:
    """Turn one pydantic error into a sentence for the author of the recipe.

    place: where the error is, with the keys of the recipe's `values`.
    """
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
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
        return f"must be {expected}, not {given!r}. {_near(str(given), _quoted(expected))}".rstrip()
    wanted = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "a text",
        "tuple": "a list",
        "list": "a list",
        "dict": "a mapping",
        "model": "a mapping",
    }.get(kind.split("_")[0])
    if wanted and kind.split("_")[1] in ("type", "parsing", "from", "attributes"):
        shown = f"'{given}'" if isinstance(given, str) else json.dumps(given)
        return f"must be {wanted}, not {shown if len(shown) < 60 else 'a ' + type(given).__name__}."
    message = " ".join(detail["msg"].removeprefix("Value error, ").split()).rstrip(".")
    for said, better in (
        ("Input should be", "must be"),
        ("String should", "must"),
        ("Tuple should", "must"),
    ):
        message = message.replace(said, better)
    if kind.startswith(("greater_than", "less_than")):
        return f"{message}, not {given!r}."
    return message if message.endswith("?") else f"{_first_lower(message)}."


def _place(loc: tuple[int | str, ...], values: Any) -> Place:
    """pydantic's location without the parts that name validators or branches of a union and not keys of the recipe."""
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


def _place_of(detail: ErrorDetails, values: Any) -> Place:
    """Place of an error in the recipe; a setting without effect is named in the error's context."""
    field = detail.get("ctx", {}).get("field") if detail["type"] == "no_effect" else None
    return _place(detail["loc"], values) + ((field,) if field is not None else ())


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
        annotation = (
            inner[0] if inner else annotation
        )  # an index, or the label of a variant: already unwrapped
    return sorted({name for model in _models(annotation) for name in model.model_fields})


def _method_at(place: Place, values: dict[str, Any]) -> str:
    """Name of the method whose settings `place` is in."""
    label = str(place[1])
    return _method_name(label, values["methods"][label])


def _method_name(label: Any, settings: Any) -> str:
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


def _items(values: dict[str, Any], key: str) -> list[tuple[Place, Any]]:
    items = values.get(key)
    return (
        [((key, index), item) for index, item in enumerate(items)]
        if isinstance(items, list)
        else []
    )


def _inside(place: Place, known: set[Place]) -> bool:
    return any(place[:length] in known for length in range(1, len(place) + 1))


def _near(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=2, cutoff=0.7)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _quoted(expected: str) -> list[str]:
    return expected.split("'")[1::2]


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
