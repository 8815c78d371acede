"""Find finished stages that a recipe no longer uses: defaults, code or inputs have changed.

The results of outdated stages stay readable. A run computes their successors, which have other
keys.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.matrix.expand import Matrix
from harness.matrix.stage import FILE_NAME, Stage, key_of
from harness.runner import provenance, stage_state

Reason = Literal["code version", "changed default", "changed input", "needed stage"]


@dataclass(frozen=True)
class Outdated:
    """One finished stage that is outdated.

    Attributes:
        successor: the stage of the recipe that replaces it.
        key: key of the outdated stage.
        reason: the kind of change; "needed stage" if only the stages that it needs have changed.
        details: versions, names of the changed settings, or roles of the changed needed stages.
    """

    successor: Stage
    key: str
    reason: Reason
    details: str


def find(matrix: Matrix, runs: Path, pending: Mapping[str, Stage]) -> Iterator[Outdated]:
    """Find finished stages that have the kind and name of a pending stage, but another key.

    If only settings differ, because the recipe was edited or --set was used, the stage is not
    outdated.

    Args:
        matrix: the recipe's stages.
        runs: the folder of runs.
        pending: key -> stage, of the stages that are not done.
    """
    successors = {(stage.kind, stage.name): stage for stage in pending.values()}
    planned = {stage.key for stage in matrix.stages}
    recipe_file = provenance.recipe_file(matrix.recipe)[0]
    for kind in sorted({stage.kind for stage in pending.values()}):
        for key in sorted(stage_state.with_result(runs, [kind]) - planned):
            record = _read(runs / "stages" / kind / key / FILE_NAME)
            successor = successors.get((kind, str(record.get("name"))))
            if successor is not None:
                try:
                    outdated = _compare(record, key, successor, recipe_file)
                except (KeyError, TypeError, AttributeError):
                    continue  # not a stage's record
                if outdated is not None:
                    yield outdated


def _compare(
    record: Mapping[str, Any], key: str, successor: Stage, recipe_file: str
) -> Outdated | None:
    config, current = record["config"], successor.spec.version
    needs = {role: need["key"] for role, need in record["needs"].items()}
    version = next(
        (
            version
            for version in range(current, 0, -1)
            if key_of(successor.kind, version, config, needs) == key
        ),
        None,
    )
    if version != current:
        known = "an unknown version" if version is None else f"version {version}"
        return Outdated(successor, key, "code version", f"{known}, now {current}")
    if config == successor.config:
        other = (role for role, need in successor.needs.items() if needs.get(role) != need.key)
        return Outdated(successor, key, "needed stage", ", ".join(sorted(other)))
    changed = tuple(_changed(config, successor.config))
    if set(changed) <= set(successor.spec.input_settings):
        return Outdated(successor, key, "changed input", ", ".join(changed))
    if record.get("recipe") != recipe_file:
        return None
    return Outdated(successor, key, "changed default", ", ".join(changed))


def _changed(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Dotted names of settings that differ."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, f"{prefix}{name}.")
        elif old != new or (name in before) != (name in after):
            yield f"{prefix}{name}"


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
