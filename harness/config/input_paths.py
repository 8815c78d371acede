"""Check that each input of a recipe is a file or a folder, as its setting requires, not a pipe.

Settings that name a file or a folder are annotated with `writers.regular_file.InputPath`. Nothing
is opened here: opening a pipe would block, and a device may never end.
"""

import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.config.explain import Place
from harness.config.raw_paths import raw_path
from harness.config.recipe import Recipe
from writers.dataset import spec_of
from writers.errors import UserError
from writers.regular_file import InputPath, fault_of

# This setting is relative to `weights_dir`. All other paths are relative to the raw folder.
CHECKPOINT = "checkpoint"


def check(recipe: Recipe, raw: Path) -> None:
    """Check every input that a recipe names. Ignores missing inputs, which are reported elsewhere.

    Args:
        recipe: the recipe.
        raw: folder of raw downloads.

    Raises:
        UserError: has one line per wrong input: `targets.0.path: FILE is a pipe, not ...`.
    """
    lines = []
    for place, path, kinds in _inputs(recipe, raw):
        fault = fault_of(path, file=kinds.file, folder=kinds.folder)
        if fault is not None:
            lines.append(f"{'.'.join(map(str, place))}: {fault}")
    if lines:
        raise UserError("\n".join(lines))


def marker_of(field: FieldInfo) -> InputPath | None:
    """Return the `InputPath` of a setting that names inputs; None for any other setting."""
    waiting = [*field.metadata, field.annotation]
    while waiting:
        part = waiting.pop()
        if isinstance(part, InputPath):
            return part
        waiting += [*getattr(part, "__metadata__", ()), *typing.get_args(part)]
    return None


def _inputs(recipe: Recipe, raw: Path) -> Iterator[tuple[Place, Path, InputPath]]:
    """Iterate over the inputs: place in the recipe, path, and accepted kinds."""
    weights = _below(raw, recipe.weights_dir)
    for place, name, kinds in _marked(recipe, ()):
        if kinds.is_checked_on_load:
            continue
        if place[-1] != CHECKPOINT:
            yield place, _below(raw, name), kinds
        elif fault_of(weights, file=False, folder=True) is None:
            yield place, _below(weights, name), kinds
    for place, data in recipe.datasets:
        if data.path is None and not spec_of(data.dataset).generated:
            yield place, raw_path(data, raw), InputPath(folder=True)


def _below(folder: Path, name: str) -> Path:
    """Join a folder and a name. Keeps "~user", which `fault_of` expands or reports as unknown."""
    return Path(name) if name.startswith("~") else folder / name


def _marked(value: object, place: Place) -> Iterator[tuple[Place, str, InputPath]]:
    """Iterate over values of settings with an `InputPath`, in nested settings, lists and mappings.

    Yields:
        Place, value, and the `InputPath`.
    """
    if isinstance(value, BaseModel):
        for key, field in type(value).model_fields.items():
            own, mark = getattr(value, key), marker_of(field)
            if mark is None or isinstance(own, BaseModel):
                yield from _marked(own, (*place, key))
            elif isinstance(own, str):
                yield (*place, key), own, mark
            elif own is not None:
                for index, name in enumerate(own):
                    yield (*place, key, index), name, mark
    elif isinstance(value, dict):
        for key, own in value.items():
            yield from _marked(own, (*place, key))
    elif isinstance(value, tuple):
        for index, own in enumerate(value):
            yield from _marked(own, (*place, index))
