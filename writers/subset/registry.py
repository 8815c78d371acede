"""Steps of subsets, by key."""

from typing import Any

from writers import names
from writers.subset.base import Step
from writers.subset.class_steps import Coarsen, Exclude, Half, Keep, Listed, Random, Remove, Under
from writers.subset.image_steps import Budget, Examples, Fraction, PerClass

AnyStep = (
    Listed
    | Remove
    | Keep
    | Random
    | Under
    | Exclude
    | Coarsen
    | PerClass
    | Budget
    | Half
    | Examples
    | Fraction
)
STEPS: dict[str, type[Step]] = {
    "classes": Listed,
    "remove": Remove,
    "keep": Keep,
    "random": Random,
    "under": Under,
    "exclude": Exclude,
    "coarsen": Coarsen,
    "per_class": PerClass,
    "budget": Budget,
    "half": Half,
    "examples": Examples,
    "fraction": Fraction,
}


def step(value: Any) -> Any:
    """Parse a step from a mapping with one key. Raises ValueError with similar names."""
    if isinstance(value, Step):
        return value
    keys = [key for key in value if key != "sha256"] if isinstance(value, dict) else []
    if len(keys) != 1:
        raise ValueError(
            f"a step is a mapping with one key, such as remove: {{hardest: 100}}; not {value!r}"
        )
    if keys[0] not in STEPS:
        error = names.unknown("step", str(keys[0]), STEPS)
        raise ValueError(f"{error.message} {error.hint}")
    return STEPS[keys[0]].model_validate(value)
