"""Determine the contents of a recipe's inputs, and which stages a changed input makes run again.

The contents of an input are a digest (`harness.runner.file_records`). A run records them in
`$HARNESS_RUNS/inputs/recipes/<recipe>.json`. If an input changes, stages that depend on it get
other keys; the old results stay on disk. If an input no longer exists, its last known contents are
used.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.config import input_paths
from harness.config.inputs import (
    PUBLISHED,
    Checkpoint,
    ClassList,
    Contents,
    Images,
    Input,
    PublishedWeights,
    beton_labels,
    inputs_of,
)
from harness.config.recipe import Recipe
from harness.matrix.expand import Matrix, expand
from harness.runner import file_records, stage_state
from harness.runner.file_records import OnRead, contents_of_file, contents_of_images, read_states
from harness.system.atomic_write import write_json
from harness.system.folders import Folders
from writers.errors import UserError
from writers.subset.spec import named

_CONTENTS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class Change:
    """An input that has changed since finished stages were computed from it.

    Attributes:
        input: the changed input.
        num_stages: number of finished stages that would run again.
    """

    input: Input
    num_stages: int


@dataclass(frozen=True)
class Plan:
    """Stages of a recipe with its current inputs.

    Attributes:
        matrix: stages of the recipe, with keys that depend on the current inputs.
        changes: inputs that have changed since the recipe's last run and that finished stages used.
        missing: inputs that no longer exist but have known contents.
    """

    matrix: Matrix
    changes: tuple[Change, ...]
    missing: tuple[Input, ...]


def _label_kind(path: Path) -> str | None:
    # Import this here, because it imports numpy, and few recipes have `.beton` files as inputs.
    from writers.datasets.beton import label_kind

    return label_kind(path)


def plan(recipe: Recipe, folders: Folders, on_read: OnRead = lambda files, num_bytes: None) -> Plan:
    """Expand a recipe with the present contents of its inputs.

    Args:
        recipe: recipe to expand.
        folders: folders of `.beton` files, raw data and stages.
        on_read: called before files are read, with their number and bytes.

    Raises:
        UserError: the path of an input is invalid, leads to a pipe or a device, or is a file if a
            folder is needed (or the reverse).
    """
    input_paths.check(recipe, folders.raw)
    before = accepted(recipe, folders.runs)
    contents: dict[str, str] = {}
    missing = []
    changed = []
    for item in inputs_of(recipe):
        try:
            contents[item.name] = _contents_of(item, folders, on_read)
        except FileNotFoundError:
            if item.name in before:
                contents[item.name] = before[item.name]
                missing.append(item)
        except OSError:  # the stage that reads the input reports the reason
            if item.name in before:
                contents[item.name] = before[item.name]
        if item.name in before and contents[item.name] != before[item.name]:
            changed.append(item)
    for labels in beton_labels(recipe):
        if (kind := _label_kind(labels.path(folders.raw))) is not None:
            file_records.remember(labels.name, folders.runs, kind, kind)
            contents[labels.name] = kind
        elif labels.name in before:
            contents[labels.name] = before[labels.name]
    matrix = expand(recipe, contents)
    if not changed:
        return Plan(matrix, (), tuple(missing))
    changes = tuple(_changes(recipe, matrix, before, changed, folders.runs))
    return Plan(matrix, changes, tuple(missing))


def accepted(recipe: Recipe, runs: Path) -> dict[str, str]:
    """Return the contents of inputs in the recipe's last run, or else the last known contents."""
    known = _recorded(recipe, runs)
    contents = {}
    for item in inputs_of(recipe):
        last = known.get(item.name) or read_states(item.name, runs).last
        if last is None and isinstance(item, PublishedWeights):
            last = PUBLISHED
        if last is not None:
            contents[item.name] = last
    for labels in beton_labels(recipe):
        kind = known.get(labels.name) or read_states(labels.name, runs).last
        if kind is not None:
            contents[labels.name] = kind
    return contents


def expand_accepted(recipe: Recipe, runs: Path) -> Matrix:
    """Expand a recipe with the contents of its last run, without reading any input."""
    return expand(recipe, accepted(recipe, runs))


def accept(matrix: Matrix, runs: Path) -> None:
    """Record the contents of this matrix as those of the recipe's last run."""
    known = _recorded(matrix.recipe, runs)
    # Keep the inputs of recipes with the same name and other settings.
    contents = {**known, **matrix.contents}
    if contents != known:
        write_json(_file(matrix.recipe, runs), contents)


def record_weights(item: PublishedWeights, file_name: str, sha256: str, runs: Path) -> None:
    """Record the file of a published model when the model is loaded for the first time."""
    first = _name_of_first(item)
    if read_states(first, runs).last is None:
        file_records.remember(first, runs, file_name, sha256[:20])


def _recorded(recipe: Recipe, runs: Path) -> dict[str, str]:
    """Read the contents of the recipe's last run; empty if there is no valid record."""
    try:
        return _CONTENTS.validate_json(_file(recipe, runs).read_bytes())
    except (OSError, ValidationError):
        return {}


def _file(recipe: Recipe, runs: Path) -> Path:
    return runs / "inputs" / "recipes" / f"{recipe.name}.json"


def _contents_of(item: Input, folders: Folders, on_read: OnRead) -> str:
    """Determine the contents of an input. Raises OSError if it is missing or unreadable."""
    path = item.path(folders.raw)
    match item:
        case Images():
            return contents_of_images(item, folders.raw, folders.runs, on_read)
        case Checkpoint():
            return contents_of_file(item.name, path, folders.runs)
        case ClassList():
            try:
                classes = named(item.model.classes or "").classes or ()
            except UserError as error:
                raise FileNotFoundError(str(error)) from error
            digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()[:20]
            file_records.remember(item.name, folders.runs, digest, digest)
            return digest
        case PublishedWeights():
            return _contents_of_weights(item, path, folders.runs)


def _contents_of_weights(item: PublishedWeights, folder: Path, runs: Path) -> str:
    """Compare the file of a published model's weights with its first record.

    Returns:
        PUBLISHED if they are equal or there is no record; otherwise the digest of the file.

    Raises:
        OSError: the file is missing or unreadable.
    """
    for file_name, digest in read_states(_name_of_first(item), runs).contents.items():
        found = contents_of_file(f"{item.name} {file_name}", folder / file_name, runs)
        return PUBLISHED if found == digest else found
    return PUBLISHED


def _name_of_first(item: PublishedWeights) -> str:
    return f"first {item.name}"


def _changes(
    recipe: Recipe,
    matrix: Matrix,
    before: Contents,
    changed: list[Input],
    runs: Path,
) -> Iterator[Change]:
    """Count, for each changed input, the finished stages that would run again."""
    done = stage_state.with_result(runs, {stage.kind for stage in matrix.stages})
    for item in changed:
        one = {**before, item.name: matrix.contents[item.name]}
        then, now = expand(recipe, before), expand(recipe, one)
        keys = {(stage.kind, stage.name): stage.key for stage in now.stages}
        num_stages = sum(
            stage.key in done
            and (key := keys.get((stage.kind, stage.name))) != stage.key
            and key not in done
            for stage in then.stages
        )
        if num_stages:
            yield Change(item, num_stages)
