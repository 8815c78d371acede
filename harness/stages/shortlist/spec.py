"""Declaration of the shortlist stage, which chooses the best models by one score."""

from collections.abc import Mapping
from typing import Any

from harness.matrix.stage_kind import StageKind


def is_incomplete(metrics: Mapping[str, Any]) -> bool:
    """Return True if scores were missing when the shortlist was computed."""
    return bool(metrics["num_missing"])


def chosen_fraction(config: Mapping[str, Any]) -> float:
    """Return the fraction of models that are chosen, for estimates before the choice is made."""
    models = {model for model, _ in config["scores"].values()}
    return min(1.0, float(config["best"]) / len(models))


SPEC = StageKind(
    version=2,
    needs_gpu=False,
    tolerates_failed_needs=True,
    is_incomplete=is_incomplete,
    chosen_fraction=chosen_fraction,
)
