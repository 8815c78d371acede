"""Registry of the steps of subsets, by key."""

from typing import Any

from writers import names
from writers.subset.base import Step
from writers.subset.class_steps import (
    Exclude,
    Granularity,
    Half,
    Keep,
    Listed,
    Random,
    Remove,
    Under,
)
from writers.subset.image_steps import Budget, Examples, Fraction, PerClass
from writers.subset.score_steps import (
    El2n,
    FeatureMapping,
    Forgetting,
    Influence,
    LabelMapping,
    Prototypes,
)

AnyStep = (
    Listed
    | Remove
    | Keep
    | Random
    | Under
    | Exclude
    | Granularity
    | PerClass
    | Budget
    | Half
    | Examples
    | Fraction
    | El2n
    | Forgetting
    | Prototypes
    | LabelMapping
    | FeatureMapping
    | Influence
)
STEPS: dict[str, type[Step]] = {
    "classes": Listed,
    "remove": Remove,
    "keep": Keep,
    "random": Random,
    "under": Under,
    "exclude": Exclude,
    "granularity": Granularity,
    "per_class": PerClass,
    "budget": Budget,
    "half": Half,
    "examples": Examples,
    "fraction": Fraction,
    "el2n": El2n,
    "forgetting": Forgetting,
    "prototypes": Prototypes,
    "label_mapping": LabelMapping,
    "feature_mapping": FeatureMapping,
    "influence": Influence,
}
EARLIER_NAMES = {"coarsen": "granularity"}  # former key of a step, still accepted -> present key


def is_step(key: str) -> bool:
    """Return True for a key or former key of a step."""
    return key in STEPS or key in EARLIER_NAMES


def step(value: Any) -> Any:
    """Parse a step from a mapping with one key. Raises ValueError with similar names."""
    if isinstance(value, Step):
        return value
    keys = [key for key in value if key != "sha256"] if isinstance(value, dict) else []
    if len(keys) != 1:
        raise ValueError(
            f"a step is a mapping with one key, such as remove: {{hardest: 100}}; not {value!r}"
        )
    key = EARLIER_NAMES.get(keys[0], keys[0])
    if key not in STEPS:
        error = names.unknown("step", str(key), STEPS)
        raise ValueError(f"{error.message} {error.hint}")
    return STEPS[key].model_validate(
        {key if name == keys[0] else name: inner for name, inner in value.items()}
    )
