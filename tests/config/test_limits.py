"""Recipes whose lists multiply to too many combinations are refused before they are expanded."""

from typing import Any

import pytest

from harness.config import limits, load
from harness.config.recipe import Recipe
from harness.config.validate import check
from harness.matrix.expand import expand
from writers.errors import UserError

NUMBERS = list(range(1, 3001))
FRACTIONS = [number / 10_000 for number in NUMBERS]
SOURCE = {"source": {"dataset": "synthetic_things"}, "subsets": ["all"]}
TARGETS = {"targets": [{"dataset": "synthetic_patterns"}]}
SUBSETS = [
    {
        "each": {"k": NUMBERS},
        "name": "r-{k}",
        "half": {"of": "random", "which": "A", "seed": "{k}"},
    }
]


def read(values: dict[str, Any]) -> Recipe:
    return check({"name": "many", **values}, lambda place: "many.yaml")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param(
            {**SOURCE, "subsets": SUBSETS, "seeds": NUMBERS},
            ["18,003,001 stages", "3,000 subsets x 3,000 seeds"],
            id="subsets and seeds",
        ),
        pytest.param(
            {**SOURCE, "seeds": NUMBERS, "eps": FRACTIONS},
            ["18,000,002 stages", "3,000 eps x 3,000 seeds"],
            id="eps and seeds",
        ),
        pytest.param(
            {**SOURCE, "subsets": [{"each": {"k": NUMBERS, "j": NUMBERS}, "name": "r-{k}-{j}"}]},
            ["9,000,000 subsets", "3,000 k x 3,000 j"],
            id="each",
        ),
        pytest.param(
            {
                **SOURCE,
                **TARGETS,
                "methods": {"full": {"per_class": NUMBERS, "steps": NUMBERS, "lrs": [0.1]}},
                "seeds": NUMBERS,
            },
            ["3,000 seeds", "3,000 values of per_class", "3,000 values of steps"],
            id="values that make stages",
        ),
        pytest.param(
            {
                "models": ["resnet18"],
                **TARGETS,
                "methods": {"full": {"per_class": NUMBERS}},
                "seeds": NUMBERS,
            },
            ["3,000 seeds", "3,000 values of per_class"],
            id="pretrained models",
        ),
        pytest.param(
            {
                **SOURCE,
                **TARGETS,
                "methods": {"full": {"lrs": FRACTIONS, "grid": {"weight_decay": FRACTIONS}}},
            },
            ["9,000,000 points", "3,000 weight_decay x 3,000 lr"],
            id="grid",
        ),
        pytest.param(
            {
                **SOURCE,
                "subsets": [{"name": "hard", "remove": {"hardest": 1, "by": "reference"}}],
                "ranking": {"split": "train", "folds": 10**9},
            },
            ["1,000,000,000 folds"],
            id="folds",
        ),
        pytest.param(
            {
                **SOURCE,
                **TARGETS,
                "methods": {"fixed": {}},
                "subsets": [
                    {"name": "best", "influence": {"target": "synthetic_patterns", "keep": 0.5}}
                ],
                "selection": {"influence": {"num_models": 10**9}},
            },
            ["1,000,000,000 selection.influence.num_models"],
            id="influence",
        ),
        pytest.param(
            {
                **SOURCE,
                "seeds": NUMBERS,
                "eps": [0, 1, 2],
                "exclude": [{"seed": seed} for seed in range(1, 2500)],
            },
            ["comparisons", "3,000 seeds", "2,499 entries of `exclude`"],
            id="exclude",
        ),
        pytest.param(
            {**SOURCE, "include": [{"seed": NUMBERS, "eps": FRACTIONS}]},
            ["18,000,004 stages", "3,001 eps x 3,001 seeds"],
            id="include",
        ),
        pytest.param(
            {**SOURCE, "subsets": SUBSETS}, ["9,000,000 pairs", "3,000 subsets"], id="subset pairs"
        ),
        pytest.param(
            {**SOURCE, "seeds": list(range(20_000))},
            ["seeds: has 20,000 entries"],
            id="list",
        ),
    ],
)
def test_too_many_combinations_are_refused_with_their_number_and_the_lists(
    values: dict[str, Any], words: list[str]
):
    with pytest.raises(UserError) as error:
        read(values)
    message = error.value.message
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_lists_that_do_not_multiply_are_planned():
    recipe = read({**SOURCE, "seeds": NUMBERS, "exclude": [{"seed": [1]}]})
    num_stages = len(expand(recipe).stages)
    assert num_stages == 1 + 2 * 2999


@pytest.mark.parametrize(
    "name", [name for name in load.available() if name not in ("model_zoo", "better_models")]
)
def test_the_count_of_a_shipped_recipe_is_an_upper_bound_far_below_the_limit(name: str):
    recipe = load.read(name)
    counted = sum(term.count for term in limits.terms_of(recipe))
    num_stages = len(expand(recipe).stages)
    assert num_stages <= counted < limits.MAX_STAGES / 5


def test_a_long_list_of_mistakes_is_cut():
    with pytest.raises(UserError) as error:
        read({**SOURCE, "archs": [f"n{number}" for number in NUMBERS]})
    lines = error.value.message.splitlines()
    assert len(lines) == 31
    assert lines[-1] == "2,970 more mistakes are not listed."
