"""Batches that do not fit into memory: in how many parts they do, and what to say when they do not.

BatchNorm sees the parts, so how many there are belongs to a result. A stage whose recipe allows parts (`accumulate: auto`)
starts with the fewest that fit; runs out all the same, because others use the device, too; and is tried again with twice as
many, which its folder remembers.
"""

import gc
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from harness.runner.context import OutOfMemoryError
from harness.runner.gpu_packing import CONTEXT_BYTES
from harness.system.atomic_write import write_json
from harness.system.out_of_memory import is_out_of_memory
from harness.train.autotune import unchanged, wait_for
from harness.train.fit import Trainee
from harness.train.trainee import ModelTrainee
from writers.errors import UserError

FILE_NAME = "parts.json"  # of a stage that ran out of memory: {"at_least": parts of a batch}
OTHERS_SHARE = (
    0.05  # of a GPU's memory: what others must hold for their leaving to make a difference
)

Setting = int | Literal["auto"]


def choose_parts(
    trainee: ModelTrainee, setting: Setting, batch: tuple[Tensor, Tensor], folder: Path
) -> int:
    """Set the trainee to the parts of a batch that a recipe's `accumulate` asks for; returns how many.

    `auto`: the fewest of 1, 2, 4, ... with which a step fits into memory, and no fewer than `folder` remembers.
    batch: like those to come. Raises UserError where not even pairs of images fit; BatchNorm needs two.
    """
    trainee.step.num_parts = _remembered(folder) if setting == "auto" else setting
    if setting == "auto":
        with unchanged(trainee, batch[0].device):
            while not _fits(trainee, *batch):
                trainee.step.num_parts *= 2
                if trainee.step.num_parts > len(batch[1]) // 2:
                    raise _nothing_fits(batch[0])
    return trainee.step.num_parts


def out_of_memory(
    trainee: Trainee,
    batch: tuple[Tensor, Tensor],
    folder: Path,
    setting: Setting | None,
    num_processes: int = 1,
) -> UserError:
    """The error for a step that ran out of memory: OutOfMemoryError where another try may go well, else a UserError with the largest
    half, quarter, ... of a batch that fits. Spoils the trainee.

    setting: `accumulate`, where the recipe could set it; None: a batch cannot go in parts. batch: of several processes, this
    one's part.
    """
    images, labels = batch
    size, side = len(labels), images.shape[-1]
    if setting == "auto" and isinstance(trainee, ModelTrainee):
        parts = 2 * trainee.step.num_parts
        if parts > size // 2:
            return _nothing_fits(images)
        write_json(folder / FILE_NAME, {"at_least": parts})
        return OutOfMemoryError(
            f"There was no longer enough memory for {size // (parts // 2)} images at {side} pixels.",
            f"The next try takes batches of {size} in {parts} parts.",
        )
    kind: Any = OutOfMemoryError if (others := _of_others(images.device)) else UserError
    used = f" Others hold {others / 1e9:.1f} GB of it." if others else ""
    instead = "" if setting is None else ", or accumulate: auto, which keeps both"
    fits = size
    while fits >= 4:
        fits //= 2
        if _fits(trainee, images[:fits], labels[:fits]):
            what = (
                f"batches of {size} images"
                if num_processes == 1
                else f"{size} images, a process's part of a batch,"
            )
            return kind(
                f"There is not enough memory for {what} at {side} pixels; {fits} fit.{used}",
                f"Set batch_size: {fits * num_processes} and scale the learning rate with it{instead}.",
            )
    return kind(f"There is not enough memory for two images at {side} pixels.{used}", SMALLER)


SMALLER = "Use a smaller model or resolution, or see what else uses the device."


def _remembered(folder: Path) -> int:
    try:
        return max(1, int(json.loads((folder / FILE_NAME).read_text())["at_least"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _of_others(device: torch.device) -> float:
    """Bytes of the GPU that other processes hold; 0 where that is next to nothing, or the device is no GPU."""
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device) - CONTEXT_BYTES
    return others if others > OTHERS_SHARE * total else 0.0


def _fits(trainee: Trainee, images: Tensor, labels: Tensor) -> bool:
    failed = False
    try:
        trainee.train_batch(images, labels)
        wait_for(images.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if (
        failed
    ):  # only here has the error, which holds on to what the step had allocated, been let go
        gc.collect()
        if images.is_cuda:
            torch.cuda.empty_cache()
    return not failed


def _nothing_fits(images: Tensor) -> UserError:
    return UserError(
        f"There is not enough memory for two images at {images.shape[-1]} pixels.", SMALLER
    )
