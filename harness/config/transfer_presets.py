"""Published settings of transfer: `methods: {full: {preset: NAME}}` in a recipe.

Comments mark values that a paper leaves open, and values of an appendix cited from memory.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from harness.config import methods
from harness.config.transfer import merge_settings
from writers import names


def _log_spaced(first: float, last: float, count: int) -> list[float]:
    """Return logarithmically spaced values from 10^first to 10^last, the same on every machine."""
    step = (last - first) / (count - 1)
    return [float(f"{10 ** (first + step * number):.6g}") for number in range(count)]


# Salman et al. 2020, "Do Adversarially Robust ImageNet Models Transfer Better?"
# (microsoft/robust-models-transfer, cea2c37): values that all rows of its table of best parameters
# share. The authors choose rate and epoch on test; here the rate is chosen on val.
_SALMAN = {
    "epochs": 150,
    "batch_size": 64,
    "resolution": 224,
    "lrs": [0.01, 0.001],
    "optimizer": {
        "schedule": "step",
        "step_epochs": 50,
        "step_factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
    },
}

# Kornblith, Shlens and Le 2019, "Do Better ImageNet Models Transfer Better?", as repeated in
# appendix B.8 of SimCLR: 7 learning rates; weight decay of 7 values divided by the rate, or none.
# Val chooses a point, which trains again on train and val together. The cosine schedule is cited
# from memory.
_NESTEROV = {
    "schedule": "cosine",
    "momentum": 0.9,
    "nesterov": True,
    "decay_norm_and_bias": False,
}
_KORNBLITH = {
    "steps": 20_000,
    "batch_size": 256,
    "resolution": 224,
    "bn_momentum": "kornblith",
    "refit": True,
    "optimizer": _NESTEROV,
    "grid": {"lr": _log_spaced(-4, -1, 7), "decay_ratio": [0.0, *_log_spaced(-6, -3, 7)]},
}
# Training from random weights, as in SimCLR (the number of steps in the original was not checked).
_KORNBLITH_SCRATCH = {
    **_KORNBLITH,
    "steps": 40_000,
    "grid": {"lr": _log_spaced(-3, 0, 7), "weight_decay": _log_spaced(-5, -1.5, 8)},
}

# VTAB's lightweight protocol (Zhai et al. 2019; consistent with its released leaderboard, whose
# sweeps have 4 points): train on 800 images, choose on 200, train again on all 1000, and test once.
_VTAB = {
    "batch_size": 512,
    "resolution": 224,
    "eval_crop": 1.0,
    "train_crop": "center",
    "horizontal_flip": False,
    "refit": True,
    "grid": {"lr": [0.1, 0.01], "steps": [2_500, 10_000]},
    "optimizer": {
        "schedule": "step",
        "step_at": [0.3, 0.6, 0.9],
        "step_factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "decay_norm_and_bias": False,
    },
}


def _fast(epochs: int, lr: float, crop: str) -> dict[str, Any]:
    return {"epochs": epochs, "lrs": [lr], "train_crop": crop}


# Settings of MadryLab/data-transfer (d51a141), which trains with FFCV. Epochs, peak rate and
# training crop depend on the dataset. The rate rises linearly until epoch 5, and then falls. The
# authors drop the last batch, which leaves one step per epoch for Flowers; no batch is dropped
# here. DTD is not in their table; it gets the most frequent values. CIFAR's images are not cropped:
# all 32 pixels are resized to 224, bilinearly here; the authors repeat each pixel.
_FAST = {
    **_fast(24, 0.2, "random"),
    "batch_size": 1024,
    "resolution": 224,
    "optimizer": {
        "schedule": "cyclic",
        "warmup_epochs": 5,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
    },
    "per_target": {
        "aircraft": _fast(24, 0.3, "center"),
        "birdsnap": _fast(15, 0.3, "random"),
        "caltech101": _fast(24, 0.2, "center"),
        "caltech256": _fast(14, 0.2, "center"),
        "cifar10": {**_fast(15, 0.1, "center"), "eval_crop": 1.0},
        "cifar100": {**_fast(15, 0.1, "center"), "eval_crop": 1.0},
        "flowers": _fast(50, 0.15, "center"),
        "pets": _fast(24, 0.1, "random"),
        "cars": _fast(50, 0.3, "random"),
        "sun397": _fast(24, 0.2, "random"),
        "food": {
            **_fast(15, 0.1, "center"),
            "optimizer": {
                "schedule": "step",
                "step_epochs": 5,
                "step_factor": 0.1,
                "warmup_epochs": 0,
            },
        },
    },
}

# Presets that update BatchNorm statistics with every method, even if the method freezes weights.
_STATISTICS_MOVE = ("salman", "fast")

METHOD_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "salman": _SALMAN,
        "kornblith": _KORNBLITH,
        "kornblith_scratch": _KORNBLITH_SCRATCH,
        "vtab": _VTAB,
        "fast": _FAST,
    }
)


def spelled_out(settings: Mapping[str, Any], label: str = "") -> dict[str, Any]:
    """Merge a recipe's settings of a method over the values of their `preset`.

    A value of the preset is dropped if the recipe replaces it by another setting: `steps` replaces
    `epochs`, and an axis of the grid replaces the setting with its name.

    Args:
        settings: settings of the method, as in the recipe.
        label: name of the method, unless the settings name it.

    Raises:
        UserError: there is no such preset. The message names similar presets.
    """
    own = {key: value for key, value in settings.items() if key != "preset"}
    if "preset" not in settings:
        return own
    name = names.normalize(str(settings["preset"]))
    if name not in METHOD_PRESETS:
        raise names.unknown("preset of methods", name, sorted(METHOD_PRESETS))
    preset = dict(METHOD_PRESETS[name])
    if name in _STATISTICS_MOVE and _freezes_statistics(str(own.get("method") or label)):
        preset["bn_stats"] = "update"
    if per_target := {
        target: _remaining(entry, own) for target, entry in preset.pop("per_target", {}).items()
    }:
        preset["per_target"] = {target: entry for target, entry in per_target.items() if entry}
    return merge_settings(preset, own)


def _freezes_statistics(method: str) -> bool:
    """Return True if a method keeps BatchNorm statistics by default. False for an unknown name."""
    if names.normalize(method) not in methods.available():
        return False
    field = methods.settings_model(method).model_fields.get("bn_stats")
    return field is not None and field.default == "frozen"


def _remaining(entry: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Drop, from a preset's settings for one target, those that the recipe sets for all targets."""
    merged = merge_settings(entry, own)
    return {
        key: merged[key]
        for key in entry
        if key in merged and (key not in own or isinstance(merged[key], dict))
    }
