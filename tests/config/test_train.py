"""Progressive resizing and presets, against the published schedules."""

import pytest
from pydantic import ValidationError

from harness.config import load as recipe
from harness.config import pretrain_presets as presets
from harness.config.train import PretrainSettings
from writers.errors import UserError

# ffcv-imagenet's rn18 configs: epochs -> first epoch (counted from 0) that trains at 192 pixels.
FIRST_AT_192 = {16: 12, 24: 19, 32: 25, 40: 32, 56: 45, 88: 71}
RECIPE = "name: tiny\nsource: {path: photos}\nsubsets: [all]\n"


@pytest.mark.parametrize(("epochs", "first"), FIRST_AT_192.items())
def test_presets_of_ffcv_imagenet_change_resolution_at_the_published_epoch(epochs, first):
    settings = PretrainSettings.model_validate(
        presets.spelled_out({"preset": f"ffcv_resnet18_{epochs}"})
    )
    assert settings.epochs == epochs
    assert [settings.resolution_at(epoch) for epoch in range(epochs)] == [160] * first + [192] * (
        epochs - first
    )
    assert (settings.batch_size, settings.optimizer.lr, settings.eval_resolution) == (
        1024,
        0.5,
        256,
    )


def test_every_preset_is_valid():
    for name in presets.PRESETS:
        PretrainSettings.model_validate(presets.spelled_out({"preset": name}))


def test_the_resolution_rises_linearly_in_multiples_between_the_epochs_of_the_ramp():
    settings = PretrainSettings(
        epochs=9, resolution=64, progressive={"start_resolution": 32, "ramp": (2, 6), "multiple": 8}
    )
    assert [settings.resolution_at(epoch) for epoch in range(9)] == [
        32,
        32,
        32,
        40,
        48,
        56,
        64,
        64,
        64,
    ]
    assert PretrainSettings(resolution=224).resolution_at(3) == 224


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ramp": (6, 6)}, "must rise"),
        ({"ramp": (2, 9)}, "end before epoch 9"),
        ({"start_resolution": 64}, "below `resolution`"),
        ({"start_resolution": 30}, "not a multiple"),
        ({"multiple": 24}, "not a multiple"),
    ],
)
def test_a_ramp_without_effect_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        PretrainSettings.model_validate(
            {
                "epochs": 9,
                "resolution": 64,
                "progressive": {"start_resolution": 32, "ramp": (2, 6), "multiple": 8, **change},
            }
        )


def test_free_training_cannot_accumulate_gradients():
    with pytest.raises(ValidationError, match="accumulate cannot be used with"):
        PretrainSettings.model_validate({"attack": {"method": "free"}, "accumulate": "auto"})


def test_keys_of_a_recipe_override_those_of_its_preset(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        RECIPE + "pretrain: {preset: ffcv_resnet18_16, batch_size: 512, optimizer: {lr: 0.25}}"
    )
    pretrain = recipe.read(tmp_path / "tiny.yaml").pretrain
    assert (pretrain.batch_size, pretrain.optimizer.lr, pretrain.optimizer.schedule) == (
        512,
        0.25,
        "cyclic",
    )
    assert pretrain.progressive is not None and pretrain.progressive.ramp == (11, 13)
    changed = recipe.read(tmp_path / "tiny.yaml", ["pretrain.preset=salman"]).pretrain
    assert (changed.epochs, changed.optimizer.step_epochs, changed.progressive) == (90, 30, None)


def test_an_unknown_preset_suggests_similar_names(tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE + "pretrain: {preset: ffcv_resnet18_17}")
    with pytest.raises(
        UserError,
        match=r"tiny.yaml:4: pretrain.preset: there is no preset named .* ffcv_resnet18_16",
    ):
        recipe.read(tmp_path / "tiny.yaml")


def test_a_reference_model_whose_training_ends_within_the_ramp_is_refused(tmp_path):
    text = (
        RECIPE.replace("[all]", "[all, {name: easy, remove: {hardest: 1, by: reference}}]")
        + "ranking: {epochs: 12}\n"
    )
    (tmp_path / "tiny.yaml").write_text(text + "pretrain: {preset: ffcv_resnet18_16}")
    with pytest.raises(UserError, match=r"ranking.epochs is 12"):
        recipe.read(tmp_path / "tiny.yaml")
