"""The matrix: which stages a recipe is, which are shared, and which a change touches."""

import json
from collections import Counter
from typing import Any

import pytest

from harness.matrix import Matrix, expand
from harness.settings import DataSettings, EvaluateSettings, Recipe
from harness.stage import Stage
from harness.train_settings import PretrainSettings
from harness.transfer_settings import TransferSettings

HARDEST = {"name": "minus2", "remove": {"hardest": 2, "by": "reference"}}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "source": {"dataset": "synthetic_things"}, "ranking": {"epochs": 3},
        "subsets": ["all", HARDEST], "archs": ["resnet10"], "eps": [0, 0.5], "seeds": [0, 1],
        "targets": [{"dataset": "synthetic_patterns"}, {"dataset": "synthetic_scenes"}],
        "methods": {"fixed": {}, "full": {}}, **changes}
    return Recipe.model_validate(values)


def by_name(matrix: Matrix) -> dict[str, Stage]:
    return {stage.name: stage for stage in matrix.stages}


def kinds(matrix: Matrix) -> Counter[str]:
    return Counter(stage.kind for stage in matrix.stages)


def touched(before: Recipe, after: Recipe) -> set[str]:
    """Names of the stages of `after` that `before` does not have."""
    known = {stage.key for stage in expand(before).stages}
    return {stage.name for stage in expand(after).stages if stage.key not in known}


def test_every_point_of_the_axes_is_trained_evaluated_and_transferred():
    matrix = expand(recipe())
    # 2 subsets x 2 eps x 2 seeds = 8 models, and the reference; x 2 targets x 2 methods = 32 transfers
    assert kinds(matrix) == {"write": 4, "pretrain": 9, "rank": 1, "evaluate": 8, "transfer": 32}
    assert len({stage.name for stage in matrix.stages}) == len(matrix.stages)


def test_each_stage_stands_after_those_it_needs():
    seen: set[str] = set()
    for stage in expand(recipe(pretrain={"length": "equal_steps"})).stages:
        assert {need.key for need in stage.needs.values()} <= seen
        seen.add(stage.key)


def test_the_configs_and_needs_that_stages_are_promised():
    stages = by_name(expand(recipe()))
    everything, few = stages["write/synthetic_things/all"], stages["write/synthetic_things/minus2"]
    target = stages["write/synthetic_patterns/all"]
    assert everything.config["subset"] is None and not everything.needs
    assert everything.config["splits"] == ["train", "val"]
    assert few.config["subset"]["name"] == "minus2" and few.needs == {"ranking": stages["rank/reference"]}
    assert target.config["splits"] == ["train", "val", "test"]

    reference = stages["pretrain/reference/seed1000"]
    assert reference.needs == {"data": everything} and reference.config["settings"]["epochs"] == 3
    assert (reference.config["arch"], reference.config["eps"], reference.config["seed"]) == ("resnet10", 0.0, 1000)
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
    asked = recipe(pretrain={"length": "equal_steps", "channels": [8, 16]},
                   methods={"fixed": {"lrs": [0.1]}, "full": {"optimizer": {"schedule": "cosine"}}})
    for stage in expand(asked).stages:
        config = json.loads(json.dumps(stage.config))
        assert config == stage.config
        if stage.kind == "write":
            DataSettings.model_validate(config["data"])
        if stage.kind == "pretrain" and "role" not in stage.axes:
            settings = PretrainSettings.model_validate(config["settings"])
            assert settings.optimizer == asked.pretrain.optimizer and settings.epochs == asked.pretrain.epochs
            if stage.axes["eps"] > 0:
                assert settings.attack == asked.pretrain.attack
        if stage.kind == "evaluate":
            EvaluateSettings.model_validate(config["settings"])
        if stage.kind == "transfer":
            settings = TransferSettings.model_validate(config["settings"])
            assert settings.lrs == asked.methods[stage.axes["method"]].lrs
            assert settings.optimizer.schedule == asked.methods[stage.axes["method"]].optimizer.schedule


def test_a_subset_that_is_everything_shares_its_data_with_the_reference():
    stages = by_name(expand(recipe()))
    model, reference = stages["pretrain/all/eps0/seed0"], stages["pretrain/reference/seed1000"]
    assert model.needs["data"].key == reference.needs["data"].key


def test_a_reference_that_equals_a_model_is_that_model():
    stages = by_name(expand(recipe(ranking={"seed": 0})))
    assert "pretrain/reference/seed0" not in stages
    model = stages["pretrain/all/eps0/seed0"]
    assert stages["rank/reference"].needs["model"].key == model.key and "role" not in model.axes


def test_names_carry_the_architecture_only_where_there_are_several():
    names = by_name(expand(recipe(archs=["resnet10", "resnet18"])))
    assert "pretrain/all/resnet18/eps0.5/seed0" in names and "pretrain/all/eps0.5/seed0" not in names


def test_keys_are_the_same_at_every_expansion_and_in_every_recipe():
    one, other = expand(recipe()), expand(recipe(name="other", question="?", subsets=["all"], ranking=None, seeds=[0]))
    assert [stage.key for stage in one.stages] == [stage.key for stage in expand(recipe()).stages]
    shared = {stage.key for stage in one.stages} & {stage.key for stage in other.stages}
    # the source, 2 models and their 8 transfers, 2 targets; not evaluate: the common classes are others
    assert len(shared) == 13


@pytest.mark.parametrize(("change", "expected"), [
    ({"pretrain": {"attack": {"steps": 1}}}, {"pretrain", "evaluate", "transfer"}),
    ({"evaluate": {"attack": {"steps": 1}}}, {"evaluate"}),
    ({"methods": {"fixed": {"epochs": 1}, "full": {}}}, {"transfer"}),
    ({"ranking": {"epochs": 3, "split": "train"}}, {"rank", "write", "pretrain", "evaluate", "transfer"}),
    ({"question": "Why?"}, set()),
    ({"source": {"dataset": "synthetic_things", "test": 0.4, "metric": "mean_per_class"}}, set()),
])
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
        assert all("all" not in name.split("/") for name in names if not name.startswith(("rank", "evaluate")))


def test_a_clean_model_is_attacked_only_when_asked_to_be():
    silent, asked = recipe(), recipe(evaluate={"eps_of_clean": 0.25})
    names = touched(silent, asked)
    assert names and all(name.startswith("evaluate/") and "/eps0/" in name for name in names)
    settings = by_name(expand(asked))["evaluate/all/eps0/seed0"].config["settings"]
    assert settings["eps_of_clean"] == 0.25 and settings["attack"]["steps"] == 20


def test_equal_steps_needs_the_whole_source_and_changes_only_smaller_subsets():
    asked = recipe(pretrain={"length": "equal_steps"})
    stages = by_name(expand(asked))
    few = stages["pretrain/minus2/eps0/seed0"]
    assert few.needs["all_data"] is stages["write/synthetic_things/all"]
    assert few.config["settings"]["length"] == "equal_steps"
    assert all("/all/" not in name for name in touched(recipe(), asked) if name.startswith(("pretrain", "transfer")))


def test_the_longest_path_is_the_most_urgent():
    matrix = expand(recipe())
    urgency = {stage.name: matrix.urgency[stage.key] for stage in matrix.stages}
    assert urgency["write/synthetic_things/all"] == max(urgency.values())
    assert urgency["pretrain/all/eps0.5/seed0"] > urgency["pretrain/all/eps0/seed0"]
    for stage in matrix.stages:
        assert all(matrix.urgency[need.key] > matrix.urgency[stage.key] for need in stage.needs.values())


def test_ten_thousand_stages():
    matrix = expand(recipe(seeds=list(range(420))))
    assert len(matrix.stages) == 6 + 420 * 4 * 6
    assert len({stage.key for stage in matrix.stages}) == len(matrix.urgency) == len(matrix.stages)
