"""A small recipe on generated images, and functions that list the stages of a recipe."""

from collections import Counter
from pathlib import Path
from typing import Any

from harness.config.load import read
from harness.config.recipe import Recipe
from harness.matrix.expand import Matrix, expand
from harness.matrix.stage import Stage

HARDEST = {"name": "minus2", "remove": {"hardest": 2, "by": "reference"}}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "source": {"dataset": "synthetic_things"},
        "ranking": {"epochs": 3},
        "subsets": ["all", HARDEST],
        "archs": ["resnet10"],
        "eps": [0, 0.5],
        "seeds": [0, 1],
        "targets": [{"dataset": "synthetic_patterns"}, {"dataset": "synthetic_scenes"}],
        "methods": {"fixed": {}, "full": {}},
        **changes,
    }
    return Recipe.model_validate(values)


def plan_of(text: str) -> Matrix:
    """Expand a recipe, which is written to a.yaml in the working directory."""
    Path("a.yaml").write_text(text)
    return expand(read("a.yaml"))


def by_name(matrix: Matrix) -> dict[str, Stage]:
    return {stage.name: stage for stage in matrix.stages}


def kinds(matrix: Matrix) -> Counter[str]:
    return Counter(stage.kind for stage in matrix.stages)


def touched(before: Recipe, after: Recipe) -> set[str]:
    """Return the names of the stages that `after` has and `before` does not."""
    known = {stage.key for stage in expand(before).stages}
    return {stage.name for stage in expand(after).stages if stage.key not in known}
