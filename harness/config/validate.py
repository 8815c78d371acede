"""Validate a recipe's plain values; one error lists every mistake with file, line and fix."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import (
    axes,
    limits,
    pretrain_presets,
    target_checks,
    transfer_presets,
)
from harness.config.explain import Place, method_name, mistakes_of
from harness.config.methods import PACKAGE as METHODS
from harness.config.methods import any_needs_features, available
from harness.config.model import ModelSettings
from harness.config.places import Origin, Places, with_subsets_of_each
from harness.config.recipe import Recipe
from harness.config.zoo_names import is_pattern, matching
from writers import names
from writers.errors import UserError
from writers.settings_errors import lower_first
from writers.subset.spec import SubsetSpec
from writers.text_names import counted

MAX_MISTAKES = 30  # mistakes that a message lists
MAX_UNKNOWN = 5  # unknown values that a message lists for an entry of `exclude` or `include`


def check(values: dict[str, Any], origin: Origin, names_folder: Path | None = None) -> Recipe:
    """Validate a recipe.

    Args:
        values: plain values, as read.
        origin: returns file and line of a place in the recipe.
        names_folder: folder that caches the names of library models; see `zoo_names.matching`.

    Raises:
        UserError: the recipe has mistakes. The message has one line per mistake.
    """
    values, places = with_subsets_of_each(values, origin)
    if too_long := [((name,), what) for name, what in limits.too_long(values)]:
        raise _error(too_long, places)
    mistakes = [*_wrong_names(values), *_wrong_subsets(values)]
    values, wrong_presets = _with_presets(values)
    mistakes += wrong_presets
    recipe = None
    try:
        # In strict mode "16" is not a number and 1 is not a boolean. From JSON, strict mode still
        # accepts a list for a tuple.
        recipe = Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        known = {place for place, _ in mistakes}
        found = mistakes_of(error, values)
        # A mistake that variants inherit from `pretrain` is reported once.
        known |= {
            ("variants", variant, *place[1:])
            for place, _ in found
            if place[:1] == ("pretrain",)
            for variant in values.get("variants", ())
        }
        mistakes += [(place, what) for place, what in found if not _inside(place, known)]
    except UserError as error:  # raised in a validator of `writers`
        if not mistakes:
            mistakes.append(((), str(error).replace("\n", " ")))
    if recipe is not None:
        _check_size(recipe, mistakes, places)
        mistakes += [
            *_without_effect(recipe, places.origin),
            *_wrong_points(recipe),
            *_wrong_for_target(recipe),
        ]
    if recipe is not None and not mistakes:
        # Betons without a metric are checked when a plan is made (`label_kinds`).
        unknown = {data.label for data in recipe.targets if data.is_beton and data.metric is None}
        mistakes += target_checks.unfit_datasets(recipe)
        mistakes += target_checks.unfit_pairs(recipe, unknown)
        if "features" in recipe.model_fields_set and not (
            recipe.scores
            or any_needs_features(recipe.methods.values())
            or (
                recipe.measures_models
                and recipe.features.model_fields_set <= {"batch_size", "precision"}
            )
        ):
            mistakes.append(
                (
                    ("features",),
                    "has no effect: there are no scores, and no method works on features.",
                )
            )
        recipe = _without_patterns(recipe, mistakes, names_folder)
        _check_size(recipe, mistakes, places)
    if mistakes or recipe is None:
        raise _error(mistakes, places)
    return recipe


def _check_size(recipe: Recipe, mistakes: list[tuple[Place, str]], places: Places) -> None:
    """Raise UserError if the recipe is too large for the checks that visit its points."""
    if (problem := limits.check(recipe)) is not None:
        raise _error([*mistakes, ((), f"the recipe has {problem}.")], places)


def _error(mistakes: Sequence[tuple[Place, str]], places: Places) -> UserError:
    """Make the error that lists each mistake once, one per line."""
    lines = places.lines(mistakes)
    if (left_out := len(lines) - MAX_MISTAKES) > 1:
        lines = [
            *lines[:MAX_MISTAKES],
            f"{counted(left_out, 'more mistake', ('is', 'are'))} not listed.",
        ]
    return UserError("\n".join(lines))


def _with_presets(values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """Merge presets into the values, and `pretrain` into each variant.

    Returns:
        The values, and the mistakes found in presets.
    """
    mistakes: list[tuple[Place, str]] = []

    def expand(
        place: Place,
        settings: Any,
        spelled_out: Callable[[dict[str, Any]], Any] = pretrain_presets.spelled_out,
    ) -> Any:
        try:
            return spelled_out(settings) if isinstance(settings, dict) else settings
        except UserError as error:
            mistakes.append(((*place, "preset"), lower_first(str(error).replace("\n", " "))))
            return None

    if "pretrain" in values:
        pretrain = expand(("pretrain",), values["pretrain"])
        values = {**values, "pretrain": {} if pretrain is None and mistakes else pretrain}
    if isinstance(variants := values.get("variants"), dict):
        pretrain = values.get("pretrain")
        under = pretrain if isinstance(pretrain, dict) else {}
        owns = {name: expand(("variants", name), own) for name, own in variants.items()}
        wrong = {place[1] for place, _ in mistakes if place[0] == "variants"}
        values = {
            **values,
            "variants": {
                name: pretrain_presets.merged(under, own) if isinstance(own, dict) else own
                for name, own in owns.items()
                if name not in wrong
            },
        }
    if isinstance(methods := values.get("methods"), dict):
        expanded = {
            label: expand(
                ("methods", label), own, partial(transfer_presets.spelled_out, label=str(label))
            )
            for label, own in methods.items()
        }
        wrong = {place[1] for place, _ in mistakes if place[0] == "methods"}
        values = {
            **values,
            "methods": {
                label: {"method": available()[0]}  # a valid placeholder for a wrong entry
                if label in wrong or method_name(label, own) not in available()
                else own
                for label, own in expanded.items()
            },
        }
    return values, mistakes


def _wrong_names(values: dict[str, Any]) -> list[tuple[Place, str]]:
    """Find names of datasets, architectures, methods and scores that do not exist."""
    references: list[tuple[Place, Any, str, str]] = []
    for place, data in (("source",), values.get("source")), *_items(values, "targets"):
        if isinstance(data, dict) and "dataset" in data:
            references.append(((*place, "dataset"), data["dataset"], "dataset", "writers.datasets"))
    # Names of library models are not checked: importing the libraries is slow.
    references += [
        (place, arch, "model", "harness.modeling.archs")
        for place, arch in _items(values, "archs")
        if not str(arch).startswith(("torchvision/", "timm/"))
    ]
    references += [
        (place, name, "model", "harness.modeling.archs") for place, name in _packaged_models(values)
    ]
    references += [
        (place, name, "score", "harness.transfer.scores")
        for place, name in _items(values, "scores")
    ]
    methods = values.get("methods")
    if isinstance(methods, dict):
        for label, method in methods.items():
            named = isinstance(method, dict) and "method" in method
            references.append(
                (
                    ("methods", label, *(["method"] if named else [])),
                    method["method"] if named else label,
                    "method",
                    METHODS,
                )
            )
    mistakes = []
    for place, name, noun, package in references:
        known = names.names(package)
        if (
            isinstance(name, str)
            and (names.normalize(name) if noun == "dataset" else name) not in known
        ):
            error = names.unknown(noun, name, known)
            mistakes.append((place, f"{lower_first(error.message)} {error.hint}"))
    return mistakes


def _packaged_models(values: dict[str, Any]) -> Iterable[tuple[Place, Any]]:
    """Find the names in `models` that must be files of harness/modeling/archs."""
    for place, given in _items(values, "models"):
        entry = given if isinstance(given, dict) else {"name": given}
        key = "name" if not entry.get("checkpoint") else "arch" if entry.get("arch") else "name"
        if isinstance(name := entry.get(key), str) and "/" not in name and not is_pattern(name):
            yield (*place, key) if isinstance(given, dict) else place, name


def _without_patterns(
    recipe: Recipe, mistakes: list[tuple[Place, str]], names_folder: Path | None
) -> Recipe:
    """Replace patterns in `models` by the models that match them.

    An entry for a single model takes precedence over a pattern that matches it.
    """
    own = {model.name for model in recipe.models if not is_pattern(model.name)}
    models: dict[str, ModelSettings] = {}
    for index, model in enumerate(recipe.models):
        try:
            matches = (
                [model.name]
                if not is_pattern(model.name)
                else [
                    name
                    for name in matching(model.name, model.limit, names_folder)
                    if name not in own
                ]
            )
        except UserError as error:
            mistakes.append((("models", index), lower_first(str(error).replace("\n", " "))))
            continue
        for name in matches:
            models.setdefault(name, model.model_copy(update={"name": name, "limit": None}))
    return recipe.model_copy(update={"models": tuple(models.values())})


def _wrong_subsets(values: dict[str, Any]) -> list[tuple[Place, str]]:
    mistakes: list[tuple[Place, str]] = []
    for place, spec in _items(values, "subsets"):
        try:
            SubsetSpec.model_validate_json(json.dumps(spec), strict=True)
        except ValidationError as error:
            mistakes += mistakes_of(error, values, place)
        except UserError as error:
            mistakes.append((place, lower_first(str(error).replace("\n", " "))))
    return mistakes


def _without_effect(recipe: Recipe, origin: Origin) -> list[tuple[Place, str]]:
    """Find settings of attacks, of evaluation and of training that do not fit the values of eps.

    Finds none if --set overrides eps, as in a quick run with `--set eps=[0]`.
    """
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
            mistakes.append((place, "needs clean training; remove `eps` above 0, or exclude it."))
            break
    if 0 not in all_eps and recipe.evaluate.eps_of_clean is not None:
        mistakes.append(
            (("evaluate", "eps_of_clean"), "has no effect: `eps` has no 0, so no model is clean.")
        )
    return mistakes


def _wrong_points(recipe: Recipe) -> list[tuple[Place, str]]:
    """Find entries of `exclude` and `include` that have unknown values or change nothing."""
    mistakes: list[tuple[Place, str]] = []
    for key in ("exclude", "include"):
        for number, entry in enumerate(getattr(recipe, key)):
            if len(mistakes) > MAX_MISTAKES:
                return mistakes
            unknown = axes.unknown_values(recipe, entry, added=key == "include")
            for axis, value, known in islice(unknown, MAX_UNKNOWN):
                error = names.unknown(f"{axis} of this recipe", str(value), map(str, known))
                mistakes.append(((key, number, axis), f"{lower_first(error.message)} {error.hint}"))
    if not mistakes:
        exclude, include = axes.AxisSelection(recipe).idle_entries()
        mistakes += [
            (
                ("exclude", number),
                "has no effect: it matches no point "
                f"{'that the entries before it leave' if number else 'of the recipe'}.",
            )
            for number in exclude
        ]
        mistakes += [
            (("include", number), "has no effect: the recipe has all of its points already.")
            for number in include
        ]
    return mistakes


def _wrong_for_target(recipe: Recipe) -> list[tuple[Place, str]]:
    """Find entries of `per_target` that do not fit the method's other settings."""
    mistakes: list[tuple[Place, str]] = []
    for label, settings in recipe.methods.items():
        for dataset, own in settings.per_target.items():
            place = ("methods", label, "per_target", dataset)
            if names.normalize(dataset) not in names.names("writers.datasets"):
                error = names.unknown("dataset", dataset, names.names("writers.datasets"))
                mistakes.append((place, f"{lower_first(error.message)} {error.hint}"))
            values = {"methods": {label: {"method": settings.method, **own}}}
            try:
                settings.for_target(dataset)
            except ValidationError as wrong:
                found = mistakes_of(wrong, values, ("methods", label))
                mistakes += [((*place, *inner[2:]), what) for inner, what in found]
    return mistakes


def _items(values: dict[str, Any], key: str) -> list[tuple[Place, Any]]:
    items = values.get(key)
    return (
        [((key, index), item) for index, item in enumerate(items)]
        if isinstance(items, list)
        else []
    )


def _inside(place: Place, known: set[Place]) -> bool:
    return any(place[:length] in known for length in range(1, len(place) + 1))
