"""The part of the matrix that looks at frozen models: what is scored, once a view, and what a recipe may say of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import recipe as recipes
from harness.matrix import expand
from harness.settings import Recipe
from writers import names
from writers.errors import UserError

TARGETS = [{"dataset": "synthetic_patterns"}, {"dataset": "synthetic_scenes"}]


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"name": "tiny", "source": {"dataset": "synthetic_things"}, "subsets": ["all"],
                              "archs": ["resnet10"], "seeds": [0, 1], "targets": TARGETS, "scores": ["knn", "leep"], **changes}
    return Recipe.model_validate(values)


def test_every_model_is_scored_for_every_target_on_features_extracted_once():
    stages = expand(recipe(pretrain={"resolution": 64, "eval_resolution": 72, "eval_crop": 1.0})).stages
    assert Counter(stage.kind for stage in stages) == {"write": 3, "pretrain": 2, "evaluate": 2, "features": 4, "score": 4}
    by_name = {stage.name: stage for stage in stages}
    score = by_name["score/synthetic_scenes/all/eps0/seed1"]
    seen = score.needs["features"]
    assert score.config == {"scores": ["knn", "leep"]} and score.axes == seen.axes
    assert seen.axes == {"subset": "all", "arch": "resnet10", "eps": 0.0, "seed": 1, "target": "synthetic_scenes"}
    assert seen.config == {"resolution": 72, "eval_crop": 1.0, "batch_size": 128, "precision": "float32", "splits": ["train"]}
    assert seen.needs == {"model": by_name["pretrain/all/eps0/seed1"], "data": by_name["write/synthetic_scenes/all"]}


def test_all_scores_are_those_of_the_catalogue_and_other_scores_touch_no_features():
    one, every = expand(recipe(scores=["knn"])), expand(recipe(scores="all"))
    assert next(stage for stage in every.stages if stage.kind == "score").config["scores"] == names.names("harness.scores")
    keys = [{stage.key for stage in matrix.stages if stage.kind != "score"} for matrix in (one, every)]
    assert keys[0] == keys[1]


def test_a_view_of_ones_own_goes_over_that_of_pretraining():
    stages = expand(recipe(features={"resolution": 128, "eval_crop": 0.5})).stages
    seen = [stage.config for stage in stages if stage.kind == "features"]
    assert seen and all((config["resolution"], config["eval_crop"]) == (128, 0.5) for config in seen)


def test_wrong_scores_are_named_with_their_line(tmp_path: Path):
    text = "name: tiny\nsource: {dataset: synthetic_things}\nsubsets: [all]\ntargets:\n  - {dataset: synthetic_scenes}\n"
    file = tmp_path / "tiny.yaml"
    file.write_text(text + "scores: [knn,\n  lep]\n")
    with pytest.raises(UserError, match=r"tiny.yaml:7: scores.1: there is no score named 'lep'. Did you mean leep"):
        recipes.read(file)
    file.write_text(text)
    with pytest.raises(UserError, match="targets and scores"):
        recipes.read(file)
    file.write_text(text + "scores: all\n")
    assert recipes.read(file).scores == "all"
