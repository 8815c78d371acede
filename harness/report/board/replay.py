"""Build the command that repeats the runs of one row of a board (a static leaderboard)."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report.board.row import BoardRow

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,60}")


def recipe_file(digest: str, recipe: Mapping[str, Any]) -> str:
    """Return the file name of a recipe in the site; a name with unusual characters is left out."""
    name = str(recipe.get("name", ""))
    return f"{name}-{digest}.json" if _NAME.fullmatch(name) else f"recipe-{digest}.json"


def command(
    row: BoardRow,
    recipe: Mapping[str, Any] | None,
    *,
    whole_model: bool,
    targets: Sequence[str] = (),
    subsets: Sequence[str] = (),
    sources: Mapping[str, BoardRow] | None = None,
) -> str:
    """Return a shell command that runs the recipe's stages of one row.

    For an accuracy on source classes, the command runs the models of all `subsets` with their
    transfers, because the shared classes depend on all of these subsets.

    The command consists of checked fields of the row, each quoted for the shell. No text of a file
    is used as a command.

    Args:
        row: row of the board to repeat.
        recipe: settings of its recipe; None if the recipe was not exported.
        whole_model: True repeats the method on all targets and with all seeds; False repeats one
            run.
        targets: targets to run if `whole_model`; empty means all of the recipe.
        subsets: subsets whose source accuracy was compared with the row's; empty means all of the
            recipe.
        sources: subset of the recipe -> a row with the source accuracy of this subset's model.

    Returns:
        The command; "" if there is no recipe.
    """
    if recipe is None:
        return ""
    parts = ["harness", "run", recipe_file(row.recipe, recipe)]
    for override in _overrides(row, recipe, whole_model, targets, subsets, sources or {}):
        parts += ["--set", override]
    return shlex.join(parts)


def _overrides(
    row: BoardRow,
    recipe: Mapping[str, Any],
    whole_model: bool,
    targets: Sequence[str],
    subsets: Sequence[str],
    sources: Mapping[str, BoardRow],
) -> Sequence[str]:
    """Return overrides that exclude all models of the recipe and include those of the row.

    They replace the recipe's own `exclude`. If it has one, the overrides therefore name the
    targets and subsets that it kept.
    """
    models = [name for name in (_name_of(model) for model in _list(recipe, "models")) if name]
    archs = _list(recipe, "archs") or (["resnet18"] if recipe.get("subsets") else [])
    point: dict[str, Any]
    others: list[BoardRow] = []
    if row.model:
        point = {"model": row.model}
    else:
        subset = row.subset or next((_name_of(one) for one in _list(recipe, "subsets")), "")
        variant = row.variant or next(iter(recipe.get("variants") or {}), "")
        point = {"subset": subset, "arch": row.arch, "variant": variant, "eps": row.eps}
        point |= {} if whole_model else {"seed": row.seed}
    if row.kind == "transfer":
        if not whole_model:
            point["target"] = row.target
        elif targets and recipe.get("exclude"):
            point["target"] = list(targets)
        point["method"] = row.method
    elif "subset" in point:
        del point["subset"]
        if subsets and recipe.get("exclude"):
            point["subset"] = list(subsets)
            # The shared classes also depend on subsets that the recipe runs with other settings.
            compared = _list(_mapping(recipe, "evaluate"), "common") or sorted(sources)
            others = [sources[name] for name in compared if name in sources.keys() - {*subsets}]
    points = [point, *(_model_point(other) for other in others)]
    points = [{a: value for a, value in one.items() if value != ""} for one in points]
    exclude = [{"arch": archs}] if archs else []
    exclude += [{"model": models}] if models else []
    overrides = [f"exclude={json.dumps(exclude)}", f"include={json.dumps(points)}"]
    idle = () if any(other.eps for other in others) else _idle(row, recipe)
    return [*overrides, *(f"{place}=null" for place in idle)]


def _model_point(row: BoardRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("subset", "arch", "variant", "eps", "seed")}


def _idle(row: BoardRow, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that have no effect on this model; a recipe with them would be refused."""
    evaluate, pretrain = _mapping(recipe, "evaluate"), _mapping(recipe, "pretrain")
    if (row.model or row.eps) and evaluate.get("eps_of_clean"):
        yield "evaluate.eps_of_clean"
    if row.eps or not row.arch:
        return
    if "attack" in pretrain:
        yield "pretrain.attack"
    for name, variant in _mapping(recipe, "variants").items():
        if isinstance(variant, dict) and "attack" in variant and "." not in name:
            yield f"variants.{name}.attack"
    if not evaluate.get("eps_of_clean"):
        yield from (
            f"evaluate.{name}" for name in ("attack", "attacked_logits") if name in evaluate
        )


def _mapping(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    values = recipe.get(name)
    return values if isinstance(values, dict) else {}


def _list(recipe: Mapping[str, Any], name: str) -> list[Any]:
    values = recipe.get(name)
    return values if isinstance(values, list) else []


def _name_of(entry: Any) -> str:
    """Return the name of a subset or model of a recipe, which may be just a string."""
    name = entry.get("name") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else ""
