"""Published ways to transfer, as `methods: {full: {preset: NAME}}` in a recipe: values for keys of TransferSettings.

What a paper leaves open, or says in an appendix that could not be read again, is marked so.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from harness.config.transfer import merge_settings
from writers import names


def _log_spaced(first: float, last: float, count: int) -> list[float]:
    """Exact at powers of ten and equal on every machine."""
    step = (last - first) / (count - 1)
    return [float(f"{10 ** (first + step * number):.6g}") for number in range(count)]


# Salman et al. 2020, "Do Adversarially Robust ImageNet Models Transfer Better?"
# (microsoft/robust-models-transfer, cea2c37): all rows of its table of best parameters share these.
# There, test chooses the rate and the epoch; here val chooses the rate.
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

# Kornblith, Shlens and Le 2019, "Do Better ImageNet Models Transfer Better?", as SimCLR's appendix
# B.8 repeats it: 7 learning rates and 7 ratios of weight decay to its inverse, and none; chosen on
# val, then trained on train and val together. The cosine is remembered, not read.
_NESTEROV = {"schedule": "cosine", "momentum": 0.9, "nesterov": True}
_KORNBLITH = {
    "steps": 20_000,
    "batch_size": 256,
    "resolution": 224,
    "bn_momentum": "kornblith",
    "refit": True,
    "optimizer": _NESTEROV,
    "grid": {"lr": _log_spaced(-4, -1, 7), "decay_ratio": [0.0, *_log_spaced(-6, -3, 7)]},
}
# From random weights, in SimCLR's version (the original's number of steps could not be read again).
_KORNBLITH_SCRATCH = {
    **_KORNBLITH,
    "steps": 40_000,
    "grid": {"lr": _log_spaced(-3, 0, 7), "weight_decay": _log_spaced(-5, -1.5, 8)},
}

# VTAB's lightweight protocol (Zhai et al. 2019; consistent with its released leaderboard, whose
# sweeps have 4 points): chosen on 200 images after training on 800, trained again on all 1000, and
# tested once.
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
    },
}


# Salman's group with FFCV (MadryLab/data-transfer, d51a141): per dataset epochs, peak rate and the
# crop of training; a line up to epoch 5 and down again. They drop a last batch, which leaves one
# step an epoch for Flowers; here none is dropped. There is no DTD in their table: it gets the most
# frequent values.
def _fast(epochs: int, lr: float, crop: str) -> dict[str, Any]:
    return {"epochs": epochs, "lrs": [lr], "train_crop": crop}


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
        "cifar10": _fast(15, 0.1, "random"),
        "cifar100": _fast(15, 0.1, "random"),
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

# Both freeze the weights of `fixed` and no more: its BatchNorm statistics go on to move, as other
# methods' do anyway.
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
    """`settings` as a recipe says them of the method `label`, with the values of their `preset` under their own.

    What the recipe says in another way is not taken from the preset: steps go over its epochs, an
    axis of the grid over the setting of its name. Raises UserError, with the near names, for an
    unknown preset.
    """
    own = {key: value for key, value in settings.items() if key != "preset"}
    if "preset" not in settings:
        return own
    name = names.normalize(str(settings["preset"]))
    if name not in METHOD_PRESETS:
        raise names.unknown("preset of methods", name, sorted(METHOD_PRESETS))
    preset = dict(METHOD_PRESETS[name])
    if name in _STATISTICS_MOVE and names.normalize(str(own.get("method") or label)) == "fixed":
        preset["bn_stats"] = "update"
    if of_targets := {
        target: _unsaid(entry, own) for target, entry in preset.pop("per_target", {}).items()
    }:
        preset["per_target"] = {target: entry for target, entry in of_targets.items() if entry}
    return merge_settings(preset, own)


def _unsaid(entry: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset has for one target, without what the recipe says for all."""
    both = merge_settings(entry, own)
    return {
        key: both[key]
        for key in entry
        if key in both and (key not in own or isinstance(both[key], dict))
    }
