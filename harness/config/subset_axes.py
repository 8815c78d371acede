"""Expand subsets that a recipe defines once for several values, such as fractions and targets.

    subsets:
      - each: {keep: [0.9, 0.8], target: all}
        name: label-mapping-{target}-{keep}
        label_mapping: {target: "{target}", keep: "{keep}"}

makes a subset for every combination of the values. `target: all` stands for all targets of the
recipe. A text that is only a name in braces becomes the value itself, so that a number stays a
number.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from harness.config.products import too_many
from writers.errors import UserError

EACH = "each"
MAX_SUBSETS = 10_000  # combinations of one entry
_NAME = re.compile(r"\{([a-z_]+)\}")


def expand(entry: Any, targets: Sequence[str]) -> list[Any]:
    """Return one subset per combination of an entry with `each`, or else only the entry itself.

    Args:
        entry: one of the recipe's `subsets`, as parsed from YAML.
        targets: labels of the recipe's targets, in order.

    Raises:
        UserError: `each` is not a mapping of lists, a name in braces is not one of its keys or the
            reverse, or there are more than MAX_SUBSETS combinations.
    """
    if not isinstance(entry, Mapping) or EACH not in entry:
        return [entry]
    axes = _axes(entry[EACH], targets)
    rest = {key: value for key, value in entry.items() if key != EACH}
    if unused := set(axes) - set(_NAME.findall(str(rest))):
        raise UserError(f"each: {min(unused)} has no effect: the subset has no {{{min(unused)}}}.")
    lengths = {name: len(values) for name, values in axes.items()}
    if (count := prod(lengths.values())) > MAX_SUBSETS:
        raise UserError(f"each: makes {too_many(count, 'subsets', lengths, MAX_SUBSETS)}.")
    return [
        _filled(rest, dict(zip(axes, values, strict=True))) for values in product(*axes.values())
    ]


def _axes(each: Any, targets: Sequence[str]) -> dict[str, Sequence[Any]]:
    if not isinstance(each, Mapping) or not each:
        raise UserError("each: must be a mapping of names to lists, such as {keep: [0.9, 0.8]}.")
    axes: dict[str, Sequence[Any]] = {}
    for name, values in each.items():
        if name == "target" and values == "all":
            values = targets
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"each: {name} must be a list of values, not {values!r}.")
        axes[str(name)] = values
    return axes


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace names in braces by their values, in the values of mappings and in lists."""
    if isinstance(value, Mapping):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    if (whole := _NAME.fullmatch(value)) and whole[1] in values:
        return values[whole[1]]

    def text(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{match[0]} is not one of the names in `each`: {', '.join(values)}.")
        replacement = values[match[1]]
        return f"{replacement:g}" if isinstance(replacement, float) else str(replacement)

    return _NAME.sub(text, value)
