"""The matrix of a recipe: its stages, which of them are shared, and what a change affects."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from harness.config.data import DataSettings
from harness.config.methods import settings_model
from harness.config.recipe import EvaluateSettings, Recipe
from harness.config.train import PretrainSettings
from harness.config.transfer import TransferSettings
from harness.matrix.expand import expand
from loaders import interpolation
from tests.helpers.small_matrix import by_name, kinds, recipe, touched


def test_every_point_of_the_axes_is_trained_evaluated_and_transferred():
    matrix = expand(recipe())
    # 2 subsets x 2 eps x 2 seeds = 8 models, and the reference model. 8 models x 2 targets x
    # 2 methods = 32 transfers.
    assert kinds(matrix) == {"write": 4, "pretrain": 9, "rank": 1, "evaluate": 8, "transfer": 32}
    assert len({stage.name for stage in matrix.stages}) == len(matrix.stages)


def test_each_stage_comes_after_those_it_needs():
    seen: set[str] = set()
    for stage in expand(recipe(pretrain={"length": "equal_steps"})).stages:
        assert {need.key for need in stage.needs.values()} <= seen
        seen.add(stage.key)


def test_stages_have_the_documented_configs_and_needs():
    stages = by_name(expand(recipe()))
    everything, few = stages["write/synthetic_things/all"], stages["write/synthetic_things/minus2"]
    target = stages["write/synthetic_patterns/all"]
    assert everything.config["subset"] is None and not everything.needs
    assert everything.config["splits"] == ["train", "val"]
    assert few.config["subset"]["name"] == "minus2"
    assert few.needs == {"ranking": stages["rank/reference"]}
    assert target.config["splits"] == ["train", "val", "test"]

    reference = stages["pretrain/reference/seed1000"]
    assert reference.needs == {"data": everything} and reference.config["settings"]["epochs"] == 3
    assert (reference.config["arch"], reference.config["eps"], reference.config["seed"]) == (
        "resnet10",
        0.0,
        1000,
    )
    assert reference.axes["role"] == "reference"
    assert stages["rank/reference"].needs == {"model": reference, "data": everything}

    model = stages["pretrain/minus2/eps0.5/seed1"]
    assert model.needs == {"data": few}
    assert model.axes == {"subset": "minus2", "arch": "resnet10", "eps": 0.5, "seed": 1}
    evaluate = stages["evaluate/minus2/eps0.5/seed1"]
    assert evaluate.needs == {"model": model, "data": few, "common_0": everything, "common_1": few}
    transfer = stages["transfer/synthetic_patterns/full/minus2/eps0.5/seed1"]
    assert transfer.needs == {"model": model, "data": target}
    assert transfer.axes == {**model.axes, "target": "synthetic_patterns", "method": "full"}
    assert transfer.config["metric"] == "top1" and transfer.config["seed"] == 1


def test_configs_are_plain_json_and_read_back_as_the_settings_they_came_from():
    changed = recipe(
        pretrain={"length": "equal_steps", "channels": [8, 16]},
        methods={"fixed": {"lrs": [0.1]}, "full": {"optimizer": {"schedule": "cosine"}}},
    )
    for stage in expand(changed).stages:
        config = json.loads(json.dumps(stage.config))
        assert config == stage.config
        if stage.kind == "write":
            DataSettings.model_validate(config["data"])
        if stage.kind == "pretrain" and "role" not in stage.axes:
            settings = PretrainSettings.model_validate(config["settings"])
            assert settings.optimizer == changed.pretrain.optimizer
            assert settings.epochs == changed.pretrain.epochs
            if stage.axes["eps"] > 0:
                assert settings.attack == changed.pretrain.attack
        if stage.kind == "evaluate":
            EvaluateSettings.model_validate(config["settings"])
        if stage.kind == "transfer":
            settings = settings_model(config["method"]).model_validate(config["settings"])
            assert isinstance(settings, TransferSettings)
            assert settings.lrs == changed.methods[stage.axes["method"]].lrs
            assert (
                settings.optimizer.schedule
                == changed.methods[stage.axes["method"]].optimizer.schedule
            )


def test_a_subset_without_steps_shares_its_data_with_the_reference():
    stages = by_name(expand(recipe()))
    model, reference = stages["pretrain/all/eps0/seed0"], stages["pretrain/reference/seed1000"]
    assert model.needs["data"].key == reference.needs["data"].key


def test_a_reference_equal_to_a_model_of_the_recipe_is_that_stage():
    stages = by_name(expand(recipe(ranking={"seed": 0})))
    assert "pretrain/reference/seed0" not in stages
    model = stages["pretrain/all/eps0/seed0"]
    assert stages["rank/reference"].needs["model"].key == model.key and "role" not in model.axes


def test_a_ranking_on_train_needs_a_model_per_held_out_fold():
    stages = by_name(expand(recipe(ranking={"split": "train", "folds": 3})))
    ranking, model = stages["rank/reference"], stages["pretrain/all/eps0/seed0"]
    assert set(ranking.needs) == {"data", "model_0", "model_1", "model_2"}
    assert "held_out" not in model.config
    assert ranking.needs["model_1"].config["held_out"] == {"fold": 1, "folds": 3, "seed": 1000}
    assert kinds(expand(recipe(ranking={"split": "train"})))["pretrain"] == 8 + 5
    for wrong in ({"folds": 3}, {"split": "held_out", "folds": 3}, {"split": "train", "folds": 1}):
        with pytest.raises(ValueError, match="folds"):
            recipe(ranking=wrong)


def test_models_are_ranked_and_evaluated_in_their_training_precision():
    """`auto` stays `auto`; a variant has its own precision. Transfers have that of their method."""
    usual, half = (
        by_name(expand(recipe(**more)))
        for more in ({}, {"pretrain": {"precision": "bf16"}, "methods": {"full": {}}})
    )
    for stages, precision in ((usual, "auto"), (half, "bf16")):
        passes = [stage for stage in stages.values() if stage.kind in ("rank", "evaluate")]
        assert {stage.config["precision"] for stage in passes} == {precision}
        assert {stage.kind for stage in passes} == {"rank", "evaluate"}
        transfers = [stage for stage in stages.values() if stage.kind == "transfer"]
        assert {stage.config["settings"].get("precision", "auto") for stage in transfers} == {
            "auto"
        }
    for name in ("rank/reference", "evaluate/all/eps0/seed0"):
        assert usual[name].key != half[name].key
    of_variants = expand(
        recipe(variants={"exact": {"precision": "float32"}, "half": {"precision": "fp16"}})
    )
    found = {
        (stage.axes["variant"], stage.config["precision"])
        for stage in of_variants.stages
        if stage.kind == "evaluate"
    }
    assert found == {("exact", "float32"), ("half", "fp16")}


def test_names_contain_the_architecture_only_if_there_are_several():
    names = by_name(expand(recipe(archs=["resnet10", "resnet18"])))
    assert "pretrain/all/resnet18/eps0.5/seed0" in names
    assert "pretrain/all/eps0.5/seed0" not in names


def test_keys_are_the_same_at_every_expansion_and_in_every_recipe():
    one, other = (
        expand(recipe()),
        expand(recipe(name="other", question="?", subsets=["all"], ranking=None, seeds=[0])),
    )
    assert [stage.key for stage in one.stages] == [stage.key for stage in expand(recipe()).stages]
    shared = {stage.key for stage in one.stages} & {stage.key for stage in other.stages}
    # `.beton` files of the source and of 2 targets, 2 models and their 8 transfers. Evaluations are not
    # shared, because the recipes have different common classes.
    assert len(shared) == 13


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pretrain": {"attack": {"steps": 1}}}, {"pretrain", "evaluate", "transfer"}),
        ({"evaluate": {"attack": {"steps": 1}}}, {"evaluate"}),
        ({"methods": {"fixed": {"epochs": 1}, "full": {}}}, {"transfer"}),
        (
            {"ranking": {"epochs": 3, "split": "train"}},
            {"rank", "write", "pretrain", "evaluate", "transfer"},
        ),
        ({"question": "Why?"}, set()),
        (
            {"source": {"dataset": "synthetic_things", "test": 0.4, "metric": "mean_per_class"}},
            set(),
        ),
    ],
)
def test_a_change_touches_only_what_depends_on_it(change: dict[str, Any], expected: set[str]):
    names = touched(recipe(), recipe(**change))
    assert {name.split("/")[0] for name in names} == expected
    if "attack" in change.get("pretrain", {}):
        assert all("eps0.5" in name for name in names), "clean models have no attack"
    if "attack" in change.get("evaluate", {}):
        assert all("eps0.5" in name for name in names)
    if "methods" in change:
        assert all(name.split("/")[2] == "fixed" for name in names)
    if "ranking" in change:
        assert all(
            "all" not in name.split("/")
            for name in names
            if not name.startswith(("rank", "evaluate"))
        )


def test_clean_models_are_attacked_only_with_eps_of_clean():
    plain, changed = recipe(), recipe(evaluate={"eps_of_clean": 0.25})
    names = touched(plain, changed)
    assert names and all(name.startswith("evaluate/") and "/eps0/" in name for name in names)
    settings = by_name(expand(changed))["evaluate/all/eps0/seed0"].config["settings"]
    assert settings["eps_of_clean"] == 0.25 and settings["attack"]["steps"] == 20


def test_equal_steps_needs_the_whole_source_and_changes_only_smaller_subsets():
    changed = recipe(pretrain={"length": "equal_steps"})
    stages = by_name(expand(changed))
    few = stages["pretrain/minus2/eps0/seed0"]
    assert few.needs["all_data"] is stages["write/synthetic_things/all"]
    assert few.config["settings"]["length"] == "equal_steps"
    assert all(
        "/all/" not in name
        for name in touched(recipe(), changed)
        if name.startswith(("pretrain", "transfer"))
    )


def test_the_longest_path_is_the_most_urgent():
    matrix = expand(recipe())
    urgency = {stage.name: matrix.urgency[stage.key] for stage in matrix.stages}
    assert urgency["write/synthetic_things/all"] == max(urgency.values())
    assert urgency["pretrain/all/eps0.5/seed0"] > urgency["pretrain/all/eps0/seed0"]
    for stage in matrix.stages:
        assert all(
            matrix.urgency[need.key] > matrix.urgency[stage.key] for need in stage.needs.values()
        )


def test_ten_thousand_stages_are_expanded():
    matrix = expand(recipe(seeds=list(range(420))))
    assert len(matrix.stages) == 6 + 420 * 4 * 6
    assert len({stage.key for stage in matrix.stages}) == len(matrix.urgency) == len(matrix.stages)


def test_settings_are_dumped_once_for_any_number_of_models(monkeypatch: pytest.MonkeyPatch):
    """The number of dumps does not grow with the number of stages, so expansion stays linear."""

    def dumps(changed: Recipe) -> int:
        counted = 0
        original = BaseModel.model_dump

        def model_dump(self: BaseModel, **options: Any) -> dict[str, Any]:
            nonlocal counted
            counted += 1
            return original(self, **options)

        monkeypatch.setattr(BaseModel, "model_dump", model_dump)
        expand(changed)
        monkeypatch.undo()
        return counted

    assert dumps(recipe(seeds=list(range(50)))) == dumps(recipe()) > 0


def test_common_classes_are_those_of_the_named_subsets_without_coarser_labels():
    """`evaluate.common` names the subsets. Those with coarser labels never limit the classes."""
    coarse = {"name": "coarse", "steps": [{"coarsen": {"bottom_up": 79}}]}

    def configs(**changes: Any) -> dict[str, Any]:
        stages = by_name(expand(recipe(ranking=None, eps=[0], seeds=[0], **changes)))
        return {name: stage.config for name, stage in stages.items() if stage.kind == "evaluate"}

    plain, random = ["all", "in900"], {"name": "drawn", "random": 3}
    assert all(
        not {"common", "coarse"} & config.keys() for config in configs(subsets=plain).values()
    )
    found = configs(subsets=[*plain, random], evaluate={"common": plain})[
        "evaluate/drawn/eps0/seed0"
    ]
    assert found["common"] == ["common_0", "common_1"] and "coarse" not in found
    assert configs(subsets=plain, evaluate={"common": plain}) == configs(subsets=plain), (
        "by default, all subsets limit the common classes"
    )
    found = configs(subsets=["all", coarse, "in900"])["evaluate/all/eps0/seed0"]
    assert (found["common"], found["coarse"]) == (["common_0", "common_2"], {"common_1": "coarse"})


def test_settings_of_a_held_out_ranking_are_in_the_reference_model_and_the_rank_stage():
    stages = by_name(expand(recipe(ranking={"split": "held_out", "seed": 5})))
    held_out = {"per_class": 50, "seed": 5}
    assert stages["pretrain/reference/seed5"].config["held_out"] == held_out
    assert (
        stages["rank/reference"].config["held_out"],
        stages["rank/reference"].config["split"],
    ) == (held_out, "train")
    assert all(
        "held_out" not in stage.config for name, stage in stages.items() if "reference" not in name
    )


def test_a_subset_with_all_classes_shares_its_data_with_the_reference():
    """in1000 is all of ImageNet, so its 40 GB are not written twice."""
    subsets = ["in1000", "in900", {"name": "held-out", "remove": {"hardest": 100}}]
    stages = by_name(expand(recipe(source={"dataset": "imagenet"}, subsets=subsets)))
    assert {name for name in stages if name.startswith("write/imagenet")} == {
        "write/imagenet/in1000",
        "write/imagenet/in900",
        "write/imagenet/held-out",
    }
    assert stages["pretrain/reference/seed1000"].needs["data"] is stages["write/imagenet/in1000"]


@pytest.mark.parametrize(
    "grid",
    [
        {"eval_crop": [0.5, 1.0]},
        {"epochs": [1, 2]},
        {"steps": [1, 2]},
        {"decay_ratio": [0, 0.1]},
        {"lr": [0.1], "reinit_last": [0, 1]},
    ],
)
def test_any_grid_survives_the_round_trip_through_a_stage(grid: dict[str, Any]):
    for stage in expand(recipe(methods={"full": {"grid": grid}})).stages:
        if stage.kind == "transfer":
            settings = settings_model("full").model_validate_json(
                json.dumps(stage.config["settings"]), strict=True
            )
            found = {axis: list(values) for axis, values in settings.grid.axes().items()}
            assert {"lr": list(settings.lrs)} | found == {"lr": [0.01, 0.001]} | grid


def test_a_new_resize_version_changes_the_keys_of_stages_that_load_images(
    monkeypatch: pytest.MonkeyPatch,
):
    shown = {"methods": {"full": {}, "logreg": {}}, "scores": ["knn"]}
    before = {stage.name: stage for stage in expand(recipe(**shown)).stages}
    monkeypatch.setattr(interpolation, "RESIZE_VERSION", interpolation.RESIZE_VERSION + 1)
    after = {stage.name: stage for stage in expand(recipe(**shown)).stages}
    for name, stage in after.items():
        # A subset that needs a ranking depends on a stage that loads images.
        is_raw = stage.kind == "write" and not stage.needs
        assert (stage.key == before[name].key) == is_raw, name
        loads = stage.kind in ("pretrain", "rank", "evaluate", "features") or (
            stage.kind == "transfer" and "data" in stage.needs
        )
        assert ("resize_version" in stage.config) == loads, name
