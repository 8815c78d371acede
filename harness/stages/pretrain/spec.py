"""Declaration of the pretrain stage, which trains a model on a subset."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.attack import AttackSettings
from harness.config.train import PretrainSettings
from harness.matrix.stage import Stage
from harness.matrix.stage_kind import StageKind
from harness.matrix.workload import Counts, Workload
from harness.stages import _workload

MODEL_FILE = "model.pt"  # file with the trained weights, in the stage's folder
# Settings that the time of a training step depends on.
STEP_SETTINGS = (
    "batch_size",
    "precision",
    "accumulate",
    "compile",
    "channels",
    "blur_pool",
    "batch_norm_scale",
    "dropout",
    "aux_head",
    "ema_decay",
    "attack",
    "augment",
)


def epoch_file(epoch: int) -> str:
    """Return the name of the file with the weights after an epoch, counted from 1."""
    return f"epoch_{epoch}.pt"


def outputs(metrics: Mapping[str, Any], folder: Path, data: Path) -> dict[Path, int | None]:
    """Map the files with the weights after each epoch, if they were saved, to None (any size)."""
    return {folder / name: None for name in metrics.get("epoch_models", ())}


def work(config: Mapping[str, Any]) -> float:
    """Return the number of passes over the training images, including passes of the attack."""
    settings = config["settings"]
    attack_passes = (
        AttackSettings.model_validate(settings["attack"]).num_passes
        if "attack" in settings
        else 0.0
    )
    return float(config.get("first_epochs", settings["epochs"])) * (1 + attack_passes)


def workloads(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Workload]:
    """Yield training steps of each resolution, and forward passes of the validation split.

    The last workload is the evaluation after the training.
    """
    config = stage.config
    settings = PretrainSettings.model_validate(config["settings"])
    train, val = counts["data"].splits["train"], counts["data"].splits["val"]
    train -= _workload.num_held_out(config.get("held_out", {}), counts["data"])
    if settings.length == "equal_steps" and "all_data" in counts:
        train = counts["all_data"].splits["train"]
    step_settings = {
        name: config["settings"][name] for name in STEP_SETTINGS if name in config["settings"]
    }
    num_epochs = config.get("first_epochs", settings.epochs)
    epochs_at = Counter(map(settings.resolution_at, range(num_epochs)))
    for resolution, num_at in sorted(epochs_at.items()):
        yield Workload(
            {
                "step": "pretrain",
                "arch": config["arch"],
                "attacked": config["eps"] > 0,
                "settings": {**step_settings, "resolution": resolution},
            },
            settings.batch_size,
            num_at * train,
        )
    num_weights = 2 if settings.ema_decay else 1  # averaged weights, and the last step's
    evaluation = _workload.forward_pass(
        _workload.model_of(stage),
        settings.eval_resolution or settings.resolution,
        settings.batch_size,
        settings.precision,
        val * num_weights * _workload.num_views(settings.flip_tta),
    )
    num_during = num_epochs // settings.eval_every if settings.eval_every else 0
    yield replace(evaluation, num_images=num_during * evaluation.num_images)
    yield evaluation


SPEC = StageKind(
    version=6,
    multi_process=True,
    makes_model=True,
    in_status="models",
    outputs=(MODEL_FILE,),
    recorded_outputs=outputs,
    work=work,
    workloads=workloads,
    counts_once=True,
)
