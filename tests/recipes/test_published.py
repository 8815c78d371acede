"""Recipes that repeat a study match its published code, also if the defaults here differ."""

import pytest

from harness.config import load as recipe
from harness.matrix.expand import expand
from writers.errors import UserError


@pytest.mark.parametrize("name", ["robust_l2", "robust_linf", "fewer_classes"])
def test_robust_recipes_attack_and_freeze_as_salmans_code(name: str):
    """The `robustness` library keeps the best iterate, in training and in evaluation (use_best=1).

    robust-models-transfer freezes the weights only: batch-norm statistics are still updated.
    """
    stages = expand(recipe.read(name)).stages
    for kind in ("pretrain", "evaluate"):
        attacks = [
            stage.config["settings"]["attack"]
            for stage in stages
            if stage.kind == kind and stage.config["eps"] > 0
        ]
        assert attacks and all(attack["best_iterate"] for attack in attacks)
    statistics = {
        stage.config["settings"]["bn_stats"]
        for stage in stages
        if stage.axes.get("method") == "fixed"
    }
    assert statistics == {"update"}


@pytest.mark.parametrize("name", ["robust_l2", "robust_linf", "fewer_classes"])
def test_robust_recipes_augment_as_the_robustness_library(name: str):
    """The ImageNet preset has ColorJitter(0.1, 0.1, 0.1) and Lighting(0.05) after crop and flip."""
    expected = {
        "color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.0},
        "lighting": 0.05,
    }
    stages = expand(recipe.read(name)).stages
    found = [
        stage.config["settings"].get("augment") for stage in stages if stage.kind == "pretrain"
    ]
    assert found
    assert all(augment == expected for augment in found)
    transfers = [stage.config["settings"] for stage in stages if stage.kind == "transfer"]
    assert not any("augment" in settings for settings in transfers)


def test_non_binary_augments_as_its_command_line():
    """timm's options: --mixup 0.2 --aa rand-m9-mstd0.5-inc1 --reprob 0.5 --remode pixel."""
    stages = expand(recipe.read("non_binary")).stages
    for method in ("default", "l2sp", "scratch"):
        settings = [
            stage.config["settings"] for stage in stages if stage.axes.get("method") == method
        ]
        assert settings
        for augment in (one["augment"] for one in settings):
            assert augment["mixup"] == 0.2
            assert augment["erasing"] | {"probability": 0.5, "fill": "noise"} == augment["erasing"]
            rand = augment["randaugment"]
            assert (rand["ops"], rand["num_ops"], rand["magnitude"]) == ("timm", 2, 9)
            assert (rand["magnitude_std"], rand["probability"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.augment=imagenet", "there is no preset 'imagenet'; presets are"),
        ("pretrain.augment={mixpu: 0.2}", "mixpu"),
        ("pretrain.augment={mixup: -1}", "greater than 0"),
        ("pretrain.augment={mix_probability: 0.5, lighting: 0.1}", "with mixup or cutmix only"),
        ("methods.full.augment={randaugment: {magnitude: 99}}", "the highest is 30"),
    ],
)
def test_invalid_augmentations_are_refused_in_one_line(override: str, message: str):
    with pytest.raises(UserError, match=message) as error:
        recipe.read("robust_l2", [override])
    assert "augment" in error.value.message
    assert "\n" not in error.value.message


def test_augmentations_can_be_removed_and_changed():
    plain = recipe.read("robust_l2", ["pretrain.augment=null"])
    assert plain.pretrain.augment is None
    changed = recipe.read("robust_l2", ["pretrain.augment={preset: salman, mixup: 0.2}"])
    assert (changed.pretrain.augment.lighting, changed.pretrain.augment.mixup) == (0.05, 0.2)


def test_no_pretraining_of_huh_is_repeated_under_another_key():
    """Huh et al. 2016: subsets with coarser labels have all images, so equal epochs are equal steps."""
    stages = expand(recipe.read("what_makes_imagenet_good")).stages
    trained = [stage.axes for stage in stages if stage.kind == "pretrain"]
    by_variant = {
        variant: {axes["subset"] for axes in trained if axes["variant"] == variant}
        for variant in ("equal_epochs", "equal_steps")
    }
    whole = {"in1000", *(f"huh-{size}" for size in (918, 753, 486, "top-127", 79, 9))}
    assert whole <= by_variant["equal_epochs"] and not whole & by_variant["equal_steps"]
    # A budget of 500,000 images of 1000 classes selects the same images as `per_class: 500`.
    assert "500k-examples" in by_variant["equal_steps"]
    assert not {"per-class-500", "per-class-250", "per-class-125"} & by_variant["equal_epochs"]
    assert len(trained) == 20 + 13
