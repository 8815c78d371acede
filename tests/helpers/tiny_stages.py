"""Tiny `.beton` files and stage contexts for the tests of training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.runner.context import Outcome, StageContext
from harness.runner.result import Result
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.subset.spec import everything

SPLITS = {"train": 20, "val": 8, "test": 8}
PRETRAIN: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "resolution": 24,
    "channels": [16, 16, 16, 16],
    "eval_crop": 1.0,
    "crop_scale": [0.5, 1.0],
    "precision": "float32",
    "optimizer": {"lr": 0.1},
}
TRANSFER: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "resolution": 24,
    "eval_crop": 1.0,
    "precision": "float32",
    "optimizer": {"schedule": "cosine"},
    "lrs": [0.1, 0.01],
}


def write_colors(
    data: Path, name: str = "colors", colors: int = 3, splits: dict[str, int] | None = None
) -> Result:
    """Write a dataset whose classes are one color each, with noise, as a source or a target.

    `splits`: split -> number of images per class; None means SPLITS. Returns the result that a
    write stage would leave.
    """
    generator = np.random.default_rng(len(name))
    mean = np.random.default_rng(0).integers(30, 226, (colors, 3))
    tree = data / f"{name}-images"
    for split, number in (splits or SPLITS).items():
        for label in range(colors):
            (tree / split / f"color{label}").mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(mean[label] + generator.normal(0, 25, (32, 28, 3)), 0, 255).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(tree / split / f"color{label}" / f"{index}.png")
    source = open_dataset("folder", tree, SplitSettings(val=0))
    written = {}
    for split in splits or SPLITS:
        file = data / name / f"{split}.beton"
        manifest = write_split(
            source, split, everything(source.classes), Encoding(format="raw"), file
        )
        written[split] = {"path": f"{name}/{split}.beton", "num_samples": manifest.num_samples}
    return as_result("write", {"splits": written, "classes": source.classes})


def as_result(kind: str, metrics: dict[str, Any]) -> Result:
    return Result(
        kind=kind,
        key="0" * 20,
        name=kind,
        axes={},
        config={},
        needs={},
        metrics=metrics,
        environment={},
        started_at=datetime.now(UTC).isoformat(),
        wall_s=0.0,
    )


def context_of(
    root: Path, name: str, config: dict[str, Any], needs: dict[str, Result], **more: Any
) -> StageContext:
    """Make the context of a stage in root/NAME; each needed stage is in root/ROLE."""
    (root / name).mkdir(exist_ok=True)
    return StageContext(
        config=config,
        folder=root / name,
        needs=needs,
        data=root / "data",
        raw=root,
        num_threads=1,
        device="cpu",
        need_folders={role: root / role for role in needs},
        **more,
    )


def pretrain_context(
    root: Path,
    data: Result,
    name: str = "model",
    *,
    eps: float = 0.0,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> StageContext:
    config = {
        "arch": "resnet10",
        "eps": eps,
        "seed": seed,
        "settings": {**PRETRAIN, **(settings or {})},
    }
    return context_of(root, name, config, {"data": data}, **more)


def without_times(outcome: Outcome) -> dict[str, Any]:
    """Return the metrics without times, which differ from run to run."""
    metrics = dict(outcome.metrics)
    if "epochs" in metrics:
        metrics["epochs"] = [
            {key: value for key, value in record.items() if key != "timing"}
            for record in metrics["epochs"]
        ]
    return metrics
