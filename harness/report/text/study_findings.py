"""Sentences about the analyses of single studies, and about what a recipe lacks of its study."""

from collections.abc import Sequence

from harness.config.recipe import Recipe
from harness.report.stats.convergence import FRACTION, Speedup
from harness.report.text.phrases import counted


def about_absent(recipe: Recipe) -> list[str]:
    """List the parts of the published study that the recipe lacks."""
    if not recipe.absent:
        return []
    return [f"Not part of this recipe, unlike the published study: {'; '.join(recipe.absent)}."]


def about_convergence(speedups: Sequence[Speedup]) -> str:
    """State how much faster pretrained networks reach most of their final odds."""
    return " ".join(_speedup(row) for row in speedups)


def _speedup(row: Speedup) -> str:
    ratio, comparative = (row.ratio, "fewer") if row.ratio >= 1 else (1 / row.ratio, "more")
    text = (
        f"{row.method} reaches {100 * FRACTION:g} % of its final odds in {ratio:.2g} times "
        f"{comparative} steps than {row.baseline} (geometric mean "
        f"{counted(row.num_targets, 'target')})."
    )
    if row.num_bounds:
        text += f" On {row.num_bounds} of them, only a bound is known."
    return text
