"""Parts of workloads that several kinds of stages share."""

from collections.abc import Mapping
from typing import Any

from harness.matrix.stage import Stage
from harness.matrix.workload import Counts, Workload

JSON = dict[str, Any]


def forward_pass(
    model: JSON, resolution: int | None, batch_size: int, precision: str, num_images: float
) -> Workload:
    """Forward passes of images through a model. resolution None means the model's own."""
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
    """Training images that a reference model does not train on."""
    train = counts.splits["train"]
    return (
        round(train / part["folds"])
        if "folds" in part
        else min(train, part.get("per_class", 0) * counts.num_classes)
    )


def num_views(flip_tta: bool) -> int:
    """Forward passes per image of an evaluation."""
    return 2 if flip_tta else 1


def model_of(stage: Stage) -> JSON:
    """Describe the model that a stage writes, as far as the time of a step depends on it."""
    if "settings" not in stage.config:
        return stage.config  # a pretrained model is described by its name
    settings = stage.config["settings"]
    return {
        "arch": stage.config["arch"],
        "channels": settings.get("channels"),
        "blur_pool": settings.get("blur_pool", False),
        "batch_norm_scale": settings.get("batch_norm_scale", True),
    }
