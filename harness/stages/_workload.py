"""Build parts of workloads that several kinds of stages share; see `harness.matrix.workload`."""

from collections.abc import Mapping
from typing import Any

from harness.matrix.stage import Stage
from harness.matrix.workload import Counts, Workload

JSON = dict[str, Any]


def forward_pass(
    model: JSON, resolution: int | None, batch_size: int, precision: str, num_images: float
) -> Workload:
    """Return a workload of forward passes. `resolution`: None means the model's own."""
    return Workload(
        {
            "step": "forward",
            "model": model,
            "resolution": resolution,
            "batch_size": batch_size,
            "precision": precision,
        },
        batch_size,
        num_images,
    )


def num_held_out(part: Mapping[str, int], counts: Counts) -> int:
    """Return the number of images held out from the training of a model that ranks classes.

    Args:
        part: with `folds` or `per_class`; if it is empty, no images are held out.
        counts: numbers of images and classes of the source dataset.
    """
    train = counts.splits["train"]
    return (
        round(train / part["folds"])
        if "folds" in part
        else min(train, part.get("per_class", 0) * counts.num_classes)
    )


def num_views(flip_tta: bool) -> int:
    """Return the number of forward passes per image in an evaluation."""
    return 2 if flip_tta else 1


def model_of(stage: Stage) -> JSON:
    """Describe the model that a stage writes, as far as the time of a step depends on it."""
    if "settings" not in stage.config:
        return stage.config  # the config of an adopt stage names its model
    settings = stage.config["settings"]
    return {
        "arch": stage.config["arch"],
        "channels": settings.get("channels"),
        "blur_pool": settings.get("blur_pool", False),
        "batch_norm_scale": settings.get("batch_norm_scale", True),
    }
