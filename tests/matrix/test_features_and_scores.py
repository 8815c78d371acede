"""Stages that use trained models: features, scores and transfers, and mistakes in recipes."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.config import load as recipes
from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from loaders.interpolation import RESIZE_VERSION
from tests.helpers import ROOT
from writers import names
from writers.errors import UserError

TARGETS = [{"dataset": "synthetic_patterns"}, {"dataset": "synthetic_scenes"}]


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "source": {"dataset": "synthetic_things"},
        "subsets": ["all"],
        "archs": ["resnet10"],
        "seeds": [0, 1],
        "targets": TARGETS,
        "scores": ["knn", "leep"],
        **changes,
    }
    return Recipe.model_validate(values)


def test_every_model_is_scored_for_every_target_on_features_extracted_once():
    stages = expand(
        recipe(pretrain={"resolution": 64, "eval_resolution": 72, "eval_crop": 1.0})
    ).stages
    assert Counter(stage.kind for stage in stages) == {
        "write": 3,
        "pretrain": 2,
        "evaluate": 2,
        "features": 4,
        "score": 4,
    }
    by_name = {stage.name: stage for stage in stages}
    score = by_name["score/synthetic_scenes/all/eps0/seed1"]
    seen = score.needs["features"]
    assert score.config == {"scores": ["knn", "leep"]} and score.axes == seen.axes
    assert seen.axes == {
        "subset": "all",
        "arch": "resnet10",
        "eps": 0.0,
        "seed": 1,
        "target": "synthetic_scenes",
    }
    assert seen.config == {
        "resolution": 72,
        "eval_crop": 1.0,
        "interpolation": "auto",
        "resize_version": RESIZE_VERSION,
        "batch_size": 128,
        "precision": "float32",
        "splits": ["train"],
    }
    assert seen.needs == {
        "model": by_name["pretrain/all/eps0/seed1"],
        "data": by_name["write/synthetic_scenes/all"],
    }


def test_all_selects_every_score_and_the_choice_of_scores_changes_no_other_stage():
    one, every = expand(recipe(scores=["knn"])), expand(recipe(scores="all"))
    assert next(stage for stage in every.stages if stage.kind == "score").config[
        "scores"
    ] == names.names("harness.transfer.scores")
    keys = [
        {stage.key for stage in matrix.stages if stage.kind != "score"} for matrix in (one, every)
    ]
    assert keys[0] == keys[1]


def test_feature_settings_override_the_resolution_of_pretraining():
    stages = expand(recipe(features={"resolution": 128, "eval_crop": 0.5})).stages
    seen = [stage.config for stage in stages if stage.kind == "features"]
    assert seen
    assert all((config["resolution"], config["eval_crop"]) == (128, 0.5) for config in seen)


def test_wrong_scores_are_named_with_their_line(tmp_path: Path):
    text = (
        "name: tiny\nsource: {dataset: synthetic_things}\nsubsets: [all]\n"
        "targets:\n  - {dataset: synthetic_scenes}\n"
    )
    file = tmp_path / "tiny.yaml"
    file.write_text(text + "scores: [knn,\n  lep]\n")
    with pytest.raises(
        UserError, match=r"tiny.yaml:7: scores.1: there is no score named 'lep'. Did you mean leep"
    ):
        recipes.read(file)
    file.write_text(text)
    with pytest.raises(UserError, match="targets and scores"):
        recipes.read(file)
    file.write_text(text + "scores: all\n")
    assert recipes.read(file).scores == "all"


def zoo(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "zoo",
        "targets": TARGETS,
        "methods": {"fixed": {}},
        "scores": ["knn"],
        "models": [
            "efficientnet_lite0",
            {"name": "mine", "checkpoint": "c.pt", "arch": "resnet18"},
        ],
        **changes,
    }
    return Recipe.model_validate(values)


def test_published_models_and_checkpoints_are_adopted_scored_and_transferred():
    stages = expand(zoo(seeds=[0, 1])).stages
    assert Counter(stage.kind for stage in stages) == {
        "write": 2,
        "adopt": 2,
        "features": 4,
        "score": 4,
        "transfer": 8,
    }
    by_name = {stage.name: stage for stage in stages}
    packaged, mine = by_name["adopt/efficientnet_lite0"], by_name["adopt/mine"]
    assert packaged.config == {
        "model": {
            "name": "efficientnet_lite0",
            "checkpoint": None,
            "interpolation": None,
            "imagenet_top1": None,
        },
        "weights_dir": None,
    }
    assert mine.config["weights_dir"] == "weights" and mine.config["model"]["checkpoint"] == "c.pt"
    transfer = by_name["transfer/synthetic_scenes/fixed/mine/seed1"]
    assert transfer.axes == {
        "model": "mine",
        "seed": 1,
        "target": "synthetic_scenes",
        "method": "fixed",
    }
    assert transfer.needs["model"].key == mine.key and transfer.config["seed"] == 1
    seen = by_name["features/synthetic_scenes/mine"]
    # None means the resolution and the crop of the model.
    assert seen.config["resolution"] is None and seen.config["eval_crop"] is None
    for stage in stages:
        assert {need.key for need in stage.needs.values()} <= {other.key for other in stages}


def test_resolution_and_crop_do_not_change_the_adopted_weights():
    shown = zoo(
        models=[
            {"name": "efficientnet_lite0", "resolution": 128, "eval_crop": 1.0},
            "squeezenet1_1",
        ]
    )
    stages = {stage.name: stage for stage in expand(shown).stages}
    assert stages["adopt/efficientnet_lite0"].key in {stage.key for stage in expand(zoo()).stages}
    seen = stages["features/synthetic_scenes/efficientnet_lite0"].config
    assert (seen["resolution"], seen["eval_crop"]) == (128, 1.0)
    assert (
        stages["transfer/synthetic_scenes/fixed/efficientnet_lite0"].config["settings"][
            "resolution"
        ]
        == 128
    )
    assert (
        stages["transfer/synthetic_scenes/fixed/squeezenet1_1"].config["settings"]["resolution"]
        == 224
    )


def test_one_recipe_can_adopt_models_and_pretrain_others():
    stages = expand(recipe(models=["efficientnet_lite0"])).stages
    assert Counter(stage.kind for stage in stages) == {
        "write": 3,
        "pretrain": 2,
        "evaluate": 2,
        "adopt": 1,
        "features": 6,
        "score": 6,
    }


def test_exclude_drops_combinations_of_models_and_targets():
    stages = expand(zoo(exclude=[{"model": "mine", "target": "synthetic_scenes"}])).stages
    assert not [
        stage
        for stage in stages
        if {"model": "mine", "target": "synthetic_scenes"}.items() <= stage.axes.items()
    ]
    assert Counter(stage.kind for stage in stages) == {
        "write": 2,
        "adopt": 2,
        "features": 3,
        "score": 3,
        "transfer": 3,
    }


MODELS = "name: tiny\ntargets:\n  - {dataset: synthetic_scenes}\nscores: all\nmodels:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MODELS + "  - efficientnet_lite1\n",
            "tiny.yaml:6: models.0: there is no model named 'efficientnet_lite1'. Did you mean",
        ),
        (
            MODELS + "  - {name: resnet18, eps: 3}\n",
            "models.0.eps: has an effect on a checkpoint only",
        ),
        (
            MODELS + "  - {name: x, checkpoint: c.pt, arch: resnet19}\n",
            "models.0.arch: there is no model named 'resnet19'",
        ),
        (MODELS + "  - {name: resnet18, limit: 3}\n", "limit has an effect on a pattern only"),
        (MODELS + "  - {name: timm/*, checkpoint: c.pt}\n", "a pattern matches several models"),
        (
            MODELS + "  - keras/*\n",
            "models.0: 'keras/*' is not a pattern of names. Begin it with torchvision/ or timm/",
        ),
        (MODELS + "  - resnet18\n  - resnet18\n", "same name"),
        (MODELS + "  - resnet18\narchs: [resnet10]\n", "archs has no effect: without a source"),
        (
            MODELS + "  - resnet18\nsource: {dataset: synthetic_things}\n",
            "source and subsets go together",
        ),
        (MODELS.replace("models:\n", ""), "there is no model"),
        (
            MODELS.replace("scores: all\n", "methods: {fixed: {}}\nfeatures: {resolution: 8}\n")
            + "  - resnet18\n",
            "tiny.yaml:5: features: has no effect",
        ),
    ],
)
def test_ambiguous_and_unknown_models_are_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        recipes.read(tmp_path / "tiny.yaml")
    assert message in str(caught.value)


def test_a_pattern_expands_to_models_and_explicit_entries_have_priority(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(
        f"{MODELS}  - {{name: torchvision/resnet*, limit: 3, resolution: 64}}\n"
        "  - {name: torchvision/resnet18, resolution: 128}\n"
    )
    found = recipes.read(tmp_path / "tiny.yaml").models
    assert [(model.name, model.resolution, model.limit) for model in found] == [
        ("torchvision/resnet101", 64, None),
        ("torchvision/resnet152", 64, None),
        ("torchvision/resnet18", 128, None),
    ]


def test_a_recipe_without_patterns_is_read_without_the_libraries(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(MODELS + "  - timm/resnet10t\n  - torchvision/resnet18\n")
    code = (
        "import sys; from harness.matrix.expand import expand; from harness.config import load; "
        "print(len(expand(load.read('tiny.yaml')).stages));"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0 and ended.stdout == "7\n", ended.stderr
