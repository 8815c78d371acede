"""Read recipes: YAML 1.2, `base:` inheritance, `scales:`, and `--set a.b=c`.

    base: robust_l2                         # name of a recipe, or a path relative to this file
    scales: {tiny: {pretrain: {epochs: 1}}} # other sizes; chosen by `scale: tiny` or --set
    scale=tiny

Values are merged in this order, later over earlier: the base, the base's chosen scale, the file,
the file's chosen scale, each --set. So a scale of the base does not replace what the file sets.
Mappings merge, other values replace, and null restores the default. The chosen scale becomes part
of the recipe's name, so that reports do not mix results of different scales. Every mistake is
reported with its file and line.
"""

import copy
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from harness.config.recipe import Recipe
from harness.config.recipe_files import FOLDER as FOLDER
from harness.config.recipe_files import available as available
from harness.config.recipe_files import find as find
from harness.config.recipe_files import short
from harness.config.validate import check
from writers import names
from writers.errors import UserError
from writers.formats.bounded_yaml import BadYamlError, parse_yaml, read_yaml
from writers.regular_file import fault_of
from writers.settings_errors import lower_first

LOGGER = logging.getLogger(__name__)
RELATIVE = "A path is relative to the file that names it."

Place = tuple[str | int, ...]  # ("targets", 0, "path")


@dataclass
class Tree:
    """A recipe's plain values.

    Attributes:
        origins: source of each value: `file:line`, or `--set KEY=VALUE`.
    """

    values: dict[str, Any]
    origins: dict[Place, str] = field(default_factory=dict)

    def origin(self, place: Place) -> str:
        """Return the source of `place`, or of the innermost known place that contains it."""
        while place not in self.origins and place:
            place = place[:-1]
        return self.origins.get(place, "recipe")


def read(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    names_folder: Path | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        path_or_name: a file, or a name in `recipes/`.
        overrides: settings to change, such as "pretrain.epochs=1".
        names_folder: folder that caches the names of library models between commands. None means
            no cache: the library is imported to look them up.

    Raises:
        UserError: lists every mistake, one per line: `file:line: key: what is wrong`.
    """
    files = _read_files(find(path_or_name))
    tree = _merged(files)
    for override in overrides:
        # Apply the choice of the scale before all other overrides, which override its settings.
        if override.partition("=")[0].strip() == "scale":
            _override(tree, override)
    tree = _scaled(tree, files)
    for override in overrides:
        if override.partition("=")[0].strip() != "scale":
            _override(tree, override)
    try:
        return check(tree.values, tree.origin, names_folder)
    except UserError as error:
        raise UserError(
            error.message, error.hint or _inherited_hint(error.message, files)
        ) from error


def _inherited_hint(message: str, files: Sequence[Tree]) -> str:
    """Explain how to change a setting of a base; "" if no mistake is in a base."""
    own, *bases = [file.origins[()] for file in reversed(files)]
    inherited = any(line.startswith(f"{base}:") for line in message.split("\n") for base in bases)
    return (
        f"Settings of a base are inherited: override them in {own}; null restores a default."
        if inherited
        else ""
    )


def _read_files(path: Path, below: tuple[Path, ...] = ()) -> list[Tree]:
    """Read `path` and the chain of its bases. The innermost base comes first, `path` last.

    `base:` is a path relative to the file that contains it, or the name of a recipe.
    """
    if path.resolve() in below:
        raise UserError(
            f"{path}: `base:` refers back to the recipe itself.",
            "Remove `base:` from one of the files.",
        )
    LOGGER.debug("Read recipe %s", path)
    tree = _parse_file(path)
    if "base" not in tree.values:
        return [tree]
    base, origin = tree.values.pop("base"), tree.origins.pop(("base",))
    if not isinstance(base, str):
        raise UserError(f"{origin}: base: must be the path of a recipe, not {base!r}.")
    base_path = Path(base) if base.startswith("~") else path.parent / base
    if (fault := fault_of(base_path)) is not None:
        raise UserError(f"{origin}: base: {lower_first(fault)}", RELATIVE)
    base_path = base_path.expanduser()
    if not base_path.exists():
        if base_path.suffix in (".yaml", ".yml"):
            raise UserError(f"{origin}: base: there is no file {base_path}.", RELATIVE)
        try:
            base_path = find(base)
        except UserError as error:
            raise UserError(
                f"{origin}: base: {error.message[:1].lower()}{error.message[1:]}", error.hint
            ) from error
    return [*_read_files(base_path, (*below, path.resolve())), tree]


def _merged(files: Sequence[Tree], scale: str | None = None) -> Tree:
    """Merge files, so that a file overrides its base. `name` is not inherited from a base.

    If `scale` is given, each file also adds its entry of `scales` with this name.
    """
    merged = Tree({}, {(): files[-1].origins[()]})
    for file in files:
        values = copy.deepcopy(file.values)  # merging changes nested mappings
        if file is not files[-1]:
            values.pop("name", None)
        _merge(merged, values, file.origins, ())
        scales = file.values.get("scales")
        settings = scales.get(scale) if isinstance(scales, dict) else None
        # Skip a value that is not a mapping. `_check_scales` reports it unless it is replaced.
        if isinstance(settings, dict):
            prefix = ("scales", scale)
            origins = {
                place[2:]: origin for place, origin in file.origins.items() if place[:2] == prefix
            }
            _merge(merged, copy.deepcopy(settings), origins, ())
    return merged


def _scaled(tree: Tree, files: Sequence[Tree]) -> Tree:
    """Merge the settings of the chosen scale, and remove `scales`.

    Args:
        tree: the merged files and overrides, which choose the scale.
        files: the files that were merged, in order.

    Raises:
        UserError: the chosen scale does not exist, or `scales` is not a mapping of settings.
    """
    _check_scales(tree)
    scales, scale = tree.values.pop("scales", {}), tree.values.get("scale")
    if scale is None:
        return tree
    chosen_by = tree.origin(("scale",))
    if isinstance(scale, bool) or not isinstance(scale, str | int):
        raise UserError(
            f"{chosen_by}: scale: must be the name of one of the recipe's scales, not {scale!r}."
        )
    scale = str(scale)
    if scale not in scales:
        error = names.unknown("scale", scale, scales)
        raise UserError(
            f"{chosen_by}: scale: {error.message[:1].lower()}{error.message[1:]}", error.hint
        )
    name = tree.values.get("name")
    scaled = _merged(files, scale)
    del scaled.values["scales"]
    scaled.values["scale"], scaled.origins[("scale",)] = scale, chosen_by
    if scaled.values.get("name") == name and isinstance(name, str):
        scaled.values["name"] = f"{name}_{scale}"
    return scaled


def _check_scales(tree: Tree) -> None:
    """Raise UserError unless `scales` maps names to mappings of settings."""
    scales = tree.values.get("scales", {})
    if not isinstance(scales, dict) or not all(
        isinstance(settings, dict) for settings in scales.values()
    ):
        raise UserError(
            f"{tree.origin(('scales',))}: scales: must be a mapping of names to mappings of "
            "settings."
        )
    for name, settings in scales.items():
        if not re.fullmatch("[a-z0-9_]+", name):
            raise UserError(
                f"{tree.origin(('scales', name))}: scales.{name}: a name may only contain a-z, 0-9 "
                "and _.",
                "A scale's name becomes part of the recipe's.",
            )
        if reserved := {"base", "scale", "scales"} & settings.keys():
            raise UserError(
                f"{tree.origin(('scales', name))}: scales.{name}: "
                f"{min(reserved)} cannot be set in a scale.",
                "Set it outside of `scales:`.",
            )


def _parse_file(path: Path) -> Tree:
    shown = short(path)
    try:
        document = read_yaml(path, shown)
    except BadYamlError as error:
        place = f"{shown}:{error.line}:" if error.line else f"{shown} cannot be read as YAML:"
        raise UserError(f"{place} {error}.") from error
    except OSError as error:
        raise UserError(f"{shown} cannot be read as YAML: {error.strerror or error}.") from error
    if not isinstance(document, CommentedMap):
        raise UserError(
            f"{shown}: a recipe is a mapping of settings.", "See recipes/demo.yaml for an example."
        )
    origins: dict[Place, str] = {(): shown}
    return Tree(_plain(document, (), shown, origins), origins)


def _plain(node: Any, place: Place, shown: str, origins: dict[Place, str]) -> Any:
    """Convert YAML nodes to plain JSON values, and record their `origins`."""
    if len(place) > 20:
        raise UserError(f"{origins[place]}: settings are nested more than 20 levels deep.")
    if getattr(getattr(node, "tag", None), "value", None) is not None:
        raise UserError(
            f"{origins[place]}: a recipe cannot have YAML tags, such as {node.tag.value}.",
            "Remove the tag.",
        )
    if isinstance(node, CommentedMap):
        plain = {}
        for key in node:
            inner = (*place, str(key))
            origins[inner] = (
                f"{shown}:{node.lc.key(key)[0] + 1}"
                if key in (node.lc.data or {})
                else origins[place]
            )
            plain[str(key)] = _plain(node[key], inner, shown, origins)
        return plain
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            origins[(*place, index)] = f"{shown}:{node.lc.item(index)[0] + 1}"
        return [_plain(item, (*place, index), shown, origins) for index, item in enumerate(node)]
    return _scalar(node, origins[place])


def _scalar(value: Any, origin: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return str(value)
    raise UserError(
        f"{origin}: {value} is neither a finite number, a string, a list nor a mapping.",
        "Put a string that looks like something else in quotes.",
    )


def _merge(under: Tree, values: dict[str, Any], origins: dict[Place, str], place: Place) -> None:
    """Merge `values` over the values of `under` at `place`. Changes `under`.

    Mappings merge, other values replace, and null restores the default.
    """
    target = _at(under.values, place)
    for key, value in values.items():
        inner = (*place, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            under.origins[inner] = origins[inner]
            _merge(under, value, origins, inner)
            continue
        inherited = target.pop(key, None) is not None
        for known in [known for known in under.origins if known[: len(inner)] == inner]:
            del under.origins[known]
        if value is None and inherited:
            continue
        target[key] = value
        under.origins.update(
            {known: origin for known, origin in origins.items() if known[: len(inner)] == inner}
        )


def _override(tree: Tree, override: str) -> None:
    """Apply one override `a.b=c`.

    c is YAML; null restores the default. A number in the path is an index of a list.
    """
    shown = f"--set {override}"
    dotted, equals, text = override.partition("=")
    parts = [part.strip() for part in dotted.split(".")]
    if not equals or not all(parts):
        raise UserError(f"{shown}: write KEY=VALUE, such as --set pretrain.epochs=1.")
    try:
        document = parse_yaml(text) if text.strip() else None
    except BadYamlError as error:
        raise UserError(
            f"{shown}: the value is not YAML.",
            "Quote it for the shell and for YAML, such as --set 'eps=[0, 1]'.",
        ) from error
    origins: dict[Place, str] = {(): shown}
    value = _plain(document, (), shown, origins)
    container: Any = tree.values
    place: Place = ()
    for depth, part in enumerate(parts):
        key: str | int = part
        if isinstance(container, list):
            if not part.isdigit() or int(part) >= len(container):
                raise UserError(
                    f"{shown}: {'.'.join(parts[:depth])} has no entry '{part}'; "
                    f"it is a list of {len(container)}, counted from 0."
                )
            key = int(part)
        elif not isinstance(container, dict):
            raise UserError(
                f"{shown}: {'.'.join(parts[:depth])} is {container!r}, which has no settings."
            )
        place = (*place, key)
        if depth < len(parts) - 1:
            if isinstance(container, dict):
                container.setdefault(key, {})
            tree.origins.setdefault(place, shown)
            container = container[key]
    assert place
    for known in [known for known in tree.origins if known[: len(place)] == place]:
        del tree.origins[known]
    if value is None and isinstance(container, dict) and container.pop(place[-1], None) is not None:
        return
    container[place[-1]] = value
    tree.origins[place] = shown
    tree.origins.update({(*place, *inner): shown for inner in origins if inner})


def _at(values: Any, place: Place) -> Any:
    for key in place:
        values = values[key]
    return values
