"""Settings of methods: errors for settings without effect, presets, and lists of values."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from harness.config import grid
from harness.config import transfer_presets as method_presets
from harness.config.methods import available, settings_model
from harness.config.transfer import MethodSettings, Reduced, TransferSettings
from harness.config.validate import check
from harness.matrix.expand import expand
from writers.errors import UserError

BASE: dict[str, Any] = {
    "name": "test",
    "source": {"dataset": "synthetic_things"},
    "subsets": ["all"],
    "archs": ["resnet10"],
    "pretrain": {"epochs": 1, "resolution": 32},
    "targets": [{"dataset": "synthetic_patterns"}, {"dataset": "flowers", "path": "x"}],
}


def recipe(methods: dict[str, Any], **more: Any):
    return check({**BASE, "methods": methods, **more}, lambda place: "recipe.yaml:1")


def transfers(methods: dict[str, Any], **more: Any):
    return [stage for stage in expand(recipe(methods, **more)).stages if stage.kind == "transfer"]


def settings_of(method: str, recipe_settings: dict[str, Any]) -> Any:
    """Validate settings as a recipe states them, together with the values of their preset."""
    spelled = method_presets.spelled_out(recipe_settings, method)
    return settings_model(method).model_validate(spelled)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"full": {"alpha": 0.1}}, "methods.full.alpha: has no effect on the method full"),
        (
            {"full": {"grid": {"alpha": [0.1]}}},
            "methods.full.grid.alpha: has no effect on the method full",
        ),
        (
            {"mine": {"method": "fixed", "reinit_last": 1}},
            "methods.mine.reinit_last: has no effect on the method fixed",
        ),
        (
            {"fixed": {"grid": {"low_lr_ratio": [0.1]}, "num_low": 1}},
            "methods.fixed.grid.low_lr_ratio: has no effect",
        ),
        (
            {"l2sp": {"optimizer": {"weight_decay": 1e-4}}},
            "methods.l2sp.optimizer.weight_decay: has no effect",
        ),
        (
            {"l2sp": {"grid": {"decay_ratio": [0.1]}}},
            "methods.l2sp.grid.decay_ratio: has no effect",
        ),
        ({"logreg": {"epochs": 3}}, "methods.logreg.epochs: has no effect on the method logreg"),
        ({"scratch": {"bn_stats": "frozen"}}, "methods.scratch.bn_stats: has no effect"),
        (
            {"fixed": {"bn_momentum": 0.1}},
            "methods.fixed.bn_momentum: has no effect on statistics that are frozen",
        ),
        ({"partial": {}}, "methods.partial: the method partial needs train_from"),
        ({"full": {"lrs": [0.1], "grid": {"lr": [0.1]}}}, "`lrs` is short for `grid.lr`"),
        ({"full": {"epochs": 1, "steps": 5}}, "epochs and steps are two ways"),
        ({"full": {"grid": {"steps": [5]}, "epochs": 3}}, "epochs and steps are two ways"),
        (
            {"full": {"grid": {"weight_decay": [0.1], "decay_ratio": [0.1]}}},
            "weight_decay and decay_ratio set the same thing in two ways",
        ),
        (
            {"full": {"grid": {"weight_decay": [0.1]}, "optimizer": {"weight_decay": 0.1}}},
            "optimizer.weight_decay has no effect",
        ),
        (
            {"full": {"grid": {"reinit_last": [1]}, "reinit_last": 1}},
            "methods.full.reinit_last: has no effect: the axis",
        ),
        ({"full": {"grid": {"lr": [0.1, 0.1]}}}, "names a value twice"),
        (
            {"full": {"low_lr_ratio": 0.1}},
            "methods.full.low_lr_ratio: has no effect without num_low",
        ),
        (
            {"full": {"train_crop": "center", "crop_scale": [0.5, 1.0]}},
            "methods.full.crop_scale: has an effect with train_crop: random only",
        ),
        ({"full": {"selected_on": "test"}}, "selected_on: unknown key"),
        (
            {"full": {"preset": "kornblit"}},
            "methods.full.preset: there is no preset of methods named 'kornblit'",
        ),
        ({"ful": {"lrs": [0.1]}}, "methods.ful: there is no method named 'ful'. Did you mean full"),
        ({"mine": {"method": "ful"}}, "methods.mine.method: there is no method named 'ful'"),
        ({"full": {"per_target": {"flower": {"epochs": 2}}}}, "there is no dataset named 'flower'"),
        (
            {"full": {"per_target": {"flowers": {"alpha": 2}}}},
            "per_target.flowers.alpha: has no effect",
        ),
        (
            {"full": {"per_target": {"flowers": {"epoch": 2}}}},
            "per_target.flowers.epoch: unknown key. Did you mean 'epochs'",
        ),
        (
            {"full": {"policy": {"halving": {"factor": 1}}}},
            "policy.halving.factor: must be greater than or equal to 2",
        ),
    ],
)
def test_settings_without_effect_are_refused(methods, message):
    with pytest.raises(UserError) as caught:
        recipe(methods)
    assert message in str(caught.value)


def test_kornblith_searches_7_rates_by_8_ratios():
    settings = settings_of("full", {"preset": "kornblith"})
    trials = grid.trials(settings)
    assert len(trials) == 56 == grid.num_configs(settings)
    assert settings.steps == 20_000
    assert settings.optimizer.nesterov
    assert [min(settings.rates), max(settings.rates)] == [1e-4, 1e-1]
    by_point = {
        (trial.point["lr"], trial.point["decay_ratio"]): trial.settings.optimizer.weight_decay
        for trial in trials
    }
    assert by_point[1e-4, 1e-3] == pytest.approx(10)
    assert by_point[0.1, 1e-6] == pytest.approx(1e-5)
    assert by_point[0.1, 0.0] == 0
    scratch = settings_of("scratch", {"preset": "kornblith-scratch"})
    assert len(grid.trials(scratch)) == 56
    assert (min(scratch.rates), max(scratch.rates)) == (1e-3, 1.0)
    assert scratch.grid.weight_decay is not None
    # The preset is written with six significant digits.
    assert scratch.grid.weight_decay[-1] == pytest.approx(10**-1.5, rel=1e-5)


def test_vtab_searches_2_by_2_and_refits():
    settings = settings_of("full", {"preset": "vtab"})
    assert [trial.point for trial in grid.trials(settings)] == [
        {"lr": lr, "steps": steps} for lr in (0.1, 0.01) for steps in (2500, 10_000)
    ]
    assert settings.refit and settings.train_crop == "center" and not settings.horizontal_flip
    assert len(grid.by_length(grid.trials(settings))) == 2


def test_the_salman_preset_is_the_default():
    explicit, default = transfers({"full": {"preset": "salman"}}), transfers({"full": {}})
    assert [stage.key for stage in explicit] == [stage.key for stage in default]


def test_the_presets_salman_and_fast_update_batch_norm_statistics():
    for preset in ("salman", "fast"):
        found = {
            stage.axes["method"]: stage.config["settings"]["bn_stats"]
            for stage in transfers(
                {
                    "fixed": {"preset": preset},
                    "head": {"method": "fixed", "preset": preset, "batch_size": 32},
                    "full": {"preset": preset},
                    "own": {"method": "fixed", "preset": preset, "bn_stats": "frozen"},
                }
            )
        }
        assert found == {"fixed": "update", "head": "update", "full": "update", "own": "frozen"}


def test_fast_has_values_per_dataset_that_the_recipe_overrides():
    stages = transfers({"full": {"preset": "fast", "batch_size": 64}})
    found = {stage.axes["target"]: stage.config["settings"] for stage in stages}
    flowers, patterns = found["flowers"], found["synthetic_patterns"]
    assert (flowers["epochs"], flowers["lrs"], flowers["train_crop"]) == (50, [0.15], "center")
    assert (patterns["epochs"], patterns["lrs"]) == (24, [0.2])
    assert {settings["batch_size"] for settings in found.values()} == {64}
    quick = {
        stage.axes["target"]: stage.config["settings"]
        for stage in transfers({"full": {"preset": "fast", "steps": 3}})
    }
    assert all(settings["steps"] == 3 and "epochs" not in settings for settings in quick.values())
    food = settings_of("full", {"preset": "fast"}).for_target("food")
    assert food.optimizer.step_epochs == 5
    assert food.optimizer.weight_decay == 5e-4
    assert food.epochs == 15


def test_settings_of_a_recipe_override_its_preset_in_either_spelling():
    settings = settings_of(
        "full",
        {
            "preset": "kornblith",
            "epochs": 3,
            "lrs": [0.1],
            "grid": {"weight_decay": [0.0]},
            "refit": False,
        },
    )
    assert settings.steps is None and settings.epochs == 3 and settings.rates == (0.1,)
    assert settings.grid.axes() == {"weight_decay": (0.0,)} and settings.bn_momentum == "kornblith"


def test_lists_of_steps_and_per_class_make_a_stage_for_each_combination():
    stages = transfers(
        {"curve": {"method": "full", "steps": [10, 20], "per_class": [2, 4]}, "full": {}}
    )
    curve = [stage for stage in stages if stage.axes["method"] == "curve"]
    assert len(curve) == 2 * 4 and {stage.config["method"] for stage in curve} == {"full"}
    assert {(stage.axes["steps"], stage.axes["per_class"]) for stage in curve} == {
        (a, b) for a in (10, 20) for b in (2, 4)
    }
    assert all(stage.config["settings"]["steps"] == stage.axes["steps"] for stage in curve)
    assert (
        len({stage.key for stage in stages}) == len({stage.name for stage in stages}) == len(stages)
    )
    assert all("steps" not in stage.axes for stage in stages if stage.axes["method"] == "full")


def test_the_long_form_of_rates_and_spelled_out_defaults_change_no_key():
    def keys(settings: dict[str, Any]) -> set[str]:
        return {stage.key for stage in transfers({"full": settings})}

    plain = keys({"lrs": [0.1, 0.2]})
    assert (
        keys({"grid": {"lr": [0.1, 0.2]}})
        == plain
        == keys({"lrs": [0.1, 0.2], "policy": "full", "reinit_last": 0})
    )
    assert keys({"lrs": [0.1]}) != plain


def test_scratch_is_trained_once_for_all_models_of_an_architecture():
    stages = transfers({"scratch": {}, "full": {}}, eps=[0.0, 1.0], seeds=[0, 1])
    scratch = [stage for stage in stages if stage.axes["method"] == "scratch"]
    # scratch: 2 targets x 2 seeds; full: 2 targets x 2 seeds x 2 eps.
    assert len(scratch) == 2 * 2 and len(stages) == 4 + 2 * 4
    assert all(set(stage.needs) == {"data"} and "eps" not in stage.axes for stage in scratch)


def test_logreg_works_on_features_and_has_no_seed():
    stages = expand(
        recipe({"logreg": {}, "crops": {"method": "logreg", "grid": {"eval_crop": [1.0, 0.875]}}})
    ).stages
    found = {stage.axes["method"]: stage for stage in stages if stage.kind == "transfer"}
    assert list(found["logreg"].needs) == ["features"]
    assert list(found["crops"].needs) == ["features_1", "features_0.875"]
    assert found["logreg"].needs["features"].config["splits"] == ["train", "val", "test"]
    assert "seed" not in found["logreg"].config
    assert set(found["logreg"].config["settings"]) == {"lambdas", "grid", "per_class"}
    assert {need.config["eval_crop"] for need in found["crops"].needs.values()} == {1.0, 0.875}


NEW_DEFAULTS: dict[str, Any] = {
    "policy": Reduced(reduced=3),
    "lrs": (0.5,),
    "lambdas": (3.0,),
    "alpha": 0.7,
}


@pytest.mark.parametrize("method", available())
def test_a_changed_default_changes_the_settings_of_a_stage(method: str):
    """Stage keys depend on all settings of a method, also on those that have their default."""
    needed = {"train_from": 3} if method == "partial" else {}
    model = settings_model(method)
    settings = model.model_validate(needed)
    resolved = settings.resolved()
    for name, value in NEW_DEFAULTS.items():
        if name in model.model_fields:
            changed = settings.model_copy(update={name: value}).resolved()
            assert changed != resolved, name
    left_out = set(model.model_fields) - resolved.keys() - settings.without_effect().keys()
    assert left_out <= {"method", "per_target", "eval_crop"} | model.ADDED_LATER
    # logreg has its crop in the settings of its features stage; detection uses whole images.
    assert "eval_crop" in resolved or method in ("logreg", "detection")
    assert model.model_validate_json(json.dumps(resolved), strict=True).resolved() == resolved


def test_a_kept_model_changes_the_settings_of_a_stage_and_detection_keeps_none():
    full = settings_model("full")
    assert full.model_validate({"keep_model": True}).resolved() == {
        **full().resolved(),
        "keep_model": True,
    }
    with pytest.raises(ValidationError, match="no effect on detection"):
        settings_model("detection").model_validate({"keep_model": True})


def test_only_settings_of_methods_that_train_networks_are_transfer_settings():
    for method in available():
        model = settings_model(method)
        assert issubclass(model, MethodSettings)
        assert issubclass(model, TransferSettings) == (model.NEEDS != "features")


def test_settings_of_a_recipe_are_those_of_its_methods():
    found = recipe({"l2sp": {"alpha": 0.5}, "few": {"method": "full", "per_class": [2, 4]}}).methods
    assert type(found["l2sp"]) is settings_model("l2sp") and found["few"].method == "full"
    again = check(
        json.loads(recipe({"l2sp": {"alpha": 0.5}}).model_dump_json(exclude_unset=True)),
        lambda place: "kept.json:1",
    )
    assert again.methods == {"l2sp": found["l2sp"]}


def optimizer_of(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the optimizer settings of the method's first transfer stage."""
    return dict(transfers({method: settings})[0].config["settings"]["optimizer"])


@pytest.mark.parametrize("method", ["full", "fixed", "scratch"])
@pytest.mark.parametrize(
    "part", [{"nesterov": True}, {"momentum": 0.8}, {"warmup_epochs": 3}, {"step_factor": 0.3}]
)
def test_a_partial_optimizer_is_merged_with_the_methods_default(method: str, part: dict[str, Any]):
    default = optimizer_of(method, {})
    found = optimizer_of(method, {"optimizer": part})
    assert found == {**default, **part}
    assert (found["schedule"], found["step_epochs"], found["weight_decay"]) == ("step", 50, 5e-4)


def test_another_schedule_replaces_the_steps_and_keeps_the_decay():
    found = optimizer_of("full", {"optimizer": {"schedule": "cosine"}})
    assert found["schedule"] == "cosine" and "step_epochs" not in found
    assert found["weight_decay"] == 5e-4 and found["decay_norm_and_bias"]
    by_fraction = optimizer_of("full", {"optimizer": {"step_at": [0.5]}})
    assert by_fraction["step_at"] == [0.5] and by_fraction["step_epochs"] is None


def test_a_grid_of_decays_replaces_the_default_decay_of_a_partial_optimizer():
    grid_of = {"decay_ratio": [0, 1e-4], "lr": [0.1]}
    found = optimizer_of("full", {"optimizer": {"nesterov": True}, "grid": grid_of})
    assert found["step_epochs"] == 50 and "weight_decay" not in found


def test_merged_settings_read_back_and_merge_per_target():
    methods = {
        "full": {
            "optimizer": {"nesterov": True},
            "per_target": {"flowers": {"optimizer": {"schedule": "cosine"}}},
        }
    }
    plain, flowers = (stage.config["settings"]["optimizer"] for stage in transfers(methods))
    assert (plain["schedule"], plain["nesterov"], plain["weight_decay"]) == ("step", True, 5e-4)
    assert (flowers["schedule"], flowers["nesterov"], flowers["weight_decay"]) == (
        "cosine",
        True,
        5e-4,
    )
    for stage in transfers(methods):
        read = settings_model("full").model_validate_json(json.dumps(stage.config["settings"]))
        assert read.resolved() == stage.config["settings"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"max_resolution": 300}, {"format": "jpeg", "max_resolution": 300, "jpeg_quality": 80}),
        ({"format": "raw"}, {"format": "raw", "max_resolution": 400}),
        ({"jpeg_quality": 70}, {"format": "jpeg", "max_resolution": 400, "jpeg_quality": 70}),
        ({"restart_index": False}, {"restart_index": False, "jpeg_quality": 80}),
        ({"max_resolution": None}, {"max_resolution": None, "jpeg_quality": 80}),
    ],
)
def test_a_partial_encoding_of_a_target_is_merged_with_the_recipes(
    own: dict[str, Any], expected: dict[str, Any]
):
    targets = [{"dataset": "synthetic_patterns", "encoding": own}]
    found = recipe(
        {"full": {}}, targets=targets, encoding={"max_resolution": 400, "jpeg_quality": 80}
    )
    (encoding,) = (
        stage.config["encoding"]
        for stage in expand(found).stages
        if stage.kind == "write" and stage.axes["dataset"] == "synthetic_patterns"
    )
    assert {key: encoding[key] for key in expected} == expected


def test_the_layer_groups_with_an_l2sp_penalty_can_be_an_axis_of_the_grid():
    settings = settings_of(
        "l2sp", {"num_low": 2, "lrs": [0.1], "grid": {"start_groups": ["both", "low", "none"]}}
    )
    tried = grid.trials(settings)
    assert [trial.point["start_groups"] for trial in tried] == ["both", "low", "none"]
    assert [trial.settings.start_groups for trial in tried] == ["both", "low", "none"]
    with pytest.raises(ValueError, match="start_groups"):
        settings_of("l2sp", {"grid": {"start_groups": ["middle"]}})


@pytest.mark.parametrize("target", ["cifar10", "cifar100"])
def test_the_fast_preset_trains_on_whole_images_of_cifar(target: str):
    """MadryLab/data-transfer resizes whole 32-pixel images and crops those of other targets."""
    settings = settings_of("full", {"preset": "fast"})
    assert settings.for_target(target).train_crop == "center"
    assert settings.for_target(target).eval_crop == 1.0
    assert settings.for_target("pets").train_crop == "random"
