"""Published settings of pretraining: `pretrain: {preset: NAME}` in a recipe."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from writers import names

# Number of epochs -> first and last epoch in which the resolution rises from 160 to 192 pixels. The
# values are from rn18_configs of libffcv/ffcv-imagenet, commit 4dd291a, which reports 66.9, 68.8,
# 70.0, 70.6, 71.3 and 72.4 % top-1 on an A100. Two deliberate differences: weight decay excludes
# biases and all norms (ffcv-imagenet: only norms with "bn" in their name), and the last, partial
# batch is kept.
_FFCV_RAMPS = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}


def _ffcv_resnet18(epochs: int, ramp: tuple[int, int]) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": 1024,
        "resolution": 192,
        "progressive": {"start_resolution": 160, "ramp": list(ramp), "multiple": 32},
        "eval_resolution": 256,
        "eval_crop": 224 / 256,
        "flip_tta": True,
        "blur_pool": True,
        "label_smoothing": 0.1,
        "optimizer": {
            "lr": 0.5,
            "schedule": "cyclic",
            "warmup_epochs": 2,
            "momentum": 0.9,
            "weight_decay": 5e-5,
        },
    }


# Salman et al. 2020, "Do Adversarially Robust ImageNet Models Transfer Better?". Their attack is
# PGD in L2 with 3 steps of 2/3 eps, and the best iterate. For `eps` above 0, add `attack:
# {relative_step_size: 0.6666666666666666, best_iterate: true}`.
_SALMAN = {
    "epochs": 90,
    "batch_size": 512,
    "resolution": 224,
    "augment": "salman",
    "optimizer": {
        "lr": 0.1,
        "schedule": "step",
        "step_epochs": 30,
        "step_factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay_norm_and_bias": True,
    },
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **{
            f"ffcv_resnet18_{epochs}": _ffcv_resnet18(epochs, ramp)
            for epochs, ramp in _FFCV_RAMPS.items()
        },
        "salman": _SALMAN,
    }
)


def spelled_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a recipe's settings over the values of their `preset`, key by key.

    Raises:
        UserError: there is no such preset. The message names similar presets.
    """
    own = {key: value for key, value in settings.items() if key != "preset"}
    if "preset" not in settings:
        return own
    name = str(settings["preset"])
    if name not in PRESETS:
        raise names.unknown("preset", name, sorted(PRESETS))
    return merged(PRESETS[name], own)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over`; mappings merge key by key."""
    changes = {
        key: merged(under[key], value)
        if isinstance(value, dict) and isinstance(under.get(key), dict)
        else value
        for key, value in over.items()
    }
    return {**under, **changes}
