"""`source_accuracy: measured` adds one evaluation per adopted model, and changes no other stage."""

from collections import Counter
from typing import Any

import pytest

from harness.config import limits
from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from harness.matrix.stage import Stage

MODELS = [
    "torchvision/resnet18",
    {"name": "timm/inception_v3", "resolution": 160},
    {"name": "mine", "checkpoint": "mine.pt", "arch": "resnet18", "resolution": 96},
]


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "zoo",
        "targets": [{"dataset": "pets"}],
        "scores": ["knn"],
        "models": MODELS,
        **changes,
    }
    return Recipe.model_validate(values)


def measured(**changes: Any) -> Recipe:
    return recipe(source={"dataset": "imagenet"}, source_accuracy="measured", **changes)


def evaluations(of: Recipe) -> dict[str, Stage]:
    return {
        stage.axes["model"]: stage
        for stage in expand(of).stages
        if stage.kind == "evaluate" and "model" in stage.axes
    }


def test_one_evaluation_per_model_and_the_val_split_of_the_source_are_added():
    before, after = expand(recipe()).stages, expand(measured()).stages
    keys = {stage.key for stage in before}
    assert keys < {stage.key for stage in after}
    added = [stage for stage in after if stage.key not in keys]
    assert Counter(stage.kind for stage in added) == {"write": 1, "evaluate": 3}
    assert next(stage for stage in added if stage.kind == "write").config["splits"] == ["val"]
    with_terms, without = (
        sum(term.count for term in limits.terms_of(one)) for one in (measured(), recipe())
    )
    assert with_terms == without + 3


def test_models_are_evaluated_at_their_own_resolution_and_crop():
    """Published weights are evaluated as published, although one entry sets 160 pixels.

    The entry of a checkpoint states its resolution.
    """
    found = evaluations(measured(features={"batch_size": 32, "resolution": 64}))
    views = {name: stage.config["resolution"] for name, stage in found.items()}
    assert views == {"torchvision/resnet18": None, "timm/inception_v3": None, "mine": 96}
    config = found["mine"].config
    assert (config["eval_crop"], config["precision"], config["settings"]) == (
        None,
        "float32",
        {"batch_size": 32},
    )


@pytest.mark.parametrize(
    ("subsets", "splits"),
    [
        (["all"], ["train", "val"]),
        (["in1000"], ["train", "val"]),
        (["in900"], ["val"]),
        (None, ["val"]),
    ],
)
def test_the_whole_source_is_read_if_the_recipe_writes_it_anyway(subsets: Any, splits: list[str]):
    changes = {} if subsets is None else {"subsets": subsets}
    found = evaluations(measured(**changes))
    [data] = {stage.needs["data"].key: stage.needs["data"] for stage in found.values()}.values()
    assert data.config["splits"] == splits
    assert (data.config["subset"] or {}).get("name") == (
        "in1000" if subsets == ["in1000"] else None
    )
    if subsets is not None:
        trained = {
            stage.key for stage in expand(recipe(source={"dataset": "imagenet"}, **changes)).stages
        }
        assert trained < {stage.key for stage in expand(measured(**changes)).stages}
        assert (data.key in trained) == (splits != ["val"])


def test_models_that_are_excluded_are_not_measured():
    assert list(evaluations(measured(exclude=[{"model": ["mine", "timm/*"]}]))) == [
        "torchvision/resnet18"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_accuracy": "measured"}, "measured needs images: set source"),
        ({"source": {"dataset": "imagenet"}}, "source and subsets go together"),
        (
            {
                "source": {"dataset": "imagenet"},
                "source_accuracy": "measured",
                "models": [],
                "subsets": ["all"],
            },
            "no effect without models",
        ),
        (
            {"source": {"dataset": "imagenet"}, "source_accuracy": "measured", "eps": [1.0]},
            "eps has no effect: without subsets nothing is pretrained",
        ),
        ({"source_accuracy": "guessed"}, "'published' or 'measured'"),
    ],
)
def test_a_setting_without_effect_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        recipe(**changes)
