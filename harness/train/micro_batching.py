"""Split batches that do not fit in memory, and report the batch size that fits.

BatchNorm normalizes each micro-batch, so the number of micro-batches is part of a result. With
`accumulate: auto` a stage starts with the smallest number that fits. If it runs out of memory
later, because other processes use the device too, it is retried with twice that number, which is
stored in its folder.
"""

import gc
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from harness.runner.context import OutOfMemoryError
from harness.runner.gpu_packing import CONTEXT_BYTES
from harness.system.atomic_write import write_json
from harness.system.out_of_memory import is_out_of_memory
from harness.train.autotune import restore_after
from harness.train.learner import Learner
from harness.train.mode_trials import synchronize
from harness.train.step import TrainStep
from writers.errors import UserError
from writers.text_names import counted

# File in the folder of a stage that ran out of memory: {"at_least": number of micro-batches}.
FILE_NAME = "parts.json"
# Other processes are ignored if they use less than this fraction of the GPU's memory.
MIN_OTHERS_FRACTION = 0.05

Setting = int | Literal["auto"]


def choose_micro_batches(
    learner: TrainStep, setting: Setting, batch: tuple[Tensor, Tensor], folder: Path
) -> int:
    """Set and return the learner's number of micro-batches.

    Args:
        learner: The training step to set up.
        setting: `accumulate` in a recipe. "auto" takes the smallest of 1, 2, 4, ... with which a
            step fits in memory, but not less than the number stored in `folder`.
        batch: Images, uint8 [B, 3, R, R], and labels, int64 [B], of the size to train on.
        folder: Folder of the stage.

    Raises:
        UserError: the smallest micro-batches do not fit. They have two images, the fewest that
            BatchNorm can use, or three or four if halving the batch does not lead to two.
    """
    if setting != "auto":
        learner.use_micro_batches(setting)
        return setting
    learner.use_micro_batches(_read_minimum(folder))
    with restore_after(learner, batch[0].device):
        while not _fits(learner, *batch):
            num_parts = learner.num_micro_batches
            if 2 * num_parts > len(batch[1]) // 2:
                raise _smallest_does_not_fit(batch[0], num_parts)
            learner.use_micro_batches(2 * num_parts)
    return learner.num_micro_batches


def out_of_memory(
    learner: Learner,
    batch: tuple[Tensor, Tensor],
    folder: Path,
    setting: Setting | None,
    num_processes: int = 1,
) -> UserError:
    """Build the error for a step that ran out of memory. Leaves the learner unusable.

    Args:
        learner: The learner that ran out of memory.
        batch: Noise of the size of this rank's part of the batch that failed: images, uint8
            [B, 3, R, R], and labels, int64 [B].
        folder: Folder of the stage.
        setting: `accumulate` in a recipe; None if the learner cannot split batches.
        num_processes: Number of ranks.

    Returns:
        OutOfMemoryError if a retry may succeed, otherwise UserError. Unless `setting` is "auto",
        the message names the largest batch size that fits, found by halving, if there is one.
    """
    images, labels = batch
    size, side = len(labels), images.shape[-1]
    if setting == "auto" and isinstance(learner, TrainStep):
        parts = 2 * learner.num_micro_batches
        if parts > size // 2:
            return _smallest_does_not_fit(images, learner.num_micro_batches)
        write_json(folder / FILE_NAME, {"at_least": parts})
        return OutOfMemoryError(
            f"There was no longer enough memory for {size // (parts // 2)} images at {side} "
            "pixels.",
            f"The next attempt splits batches of {size} into {parts} micro-batches.",
        )
    others_bytes = _bytes_of_others(images.device)
    error: type[UserError] = OutOfMemoryError if others_bytes else UserError
    used = f" Other processes use {others_bytes / 1e9:.1f} GB." if others_bytes else ""
    or_split = "" if setting is None else ", or set accumulate: auto, which keeps both"
    num_fitting = size
    # Do not communicate: other ranks may have had enough memory and are not in this function.
    with learner.without_ddp() if isinstance(learner, TrainStep) else nullcontext():
        while num_fitting >= 4:
            num_fitting //= 2
            if _fits(learner, images[:num_fitting], labels[:num_fitting]):
                what = (
                    f"batches of {size} images"
                    if num_processes == 1
                    else f"the {size} images of a batch on one process"
                )
                return error(
                    f"There is not enough memory for {what} at {side} pixels; {num_fitting} fit."
                    f"{used}",
                    f"Set batch_size: {num_fitting * num_processes} and scale the learning rate "
                    f"accordingly{or_split}.",
                )
    return error(
        f"There is not enough memory for {counted(num_fitting, 'image')} at {side} pixels.{used}",
        SMALLER,
    )


SMALLER = "Use a smaller model or resolution, or free memory that other processes use."


def _read_minimum(folder: Path) -> int:
    try:
        return max(1, int(json.loads((folder / FILE_NAME).read_text())["at_least"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _bytes_of_others(device: torch.device) -> float:
    """Return the bytes of GPU memory that other processes use; 0 if negligible, or on a CPU."""
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device) - CONTEXT_BYTES
    return others if others > MIN_OTHERS_FRACTION * total else 0.0


def _fits(learner: Learner, images: Tensor, labels: Tensor) -> bool:
    failed = False
    try:
        learner.train_batch(images, labels)
        synchronize(images.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    # Outside the except block: the traceback would keep the step's tensors alive.
    if failed:
        gc.collect()
        if images.is_cuda:
            torch.cuda.empty_cache()
    return not failed


def _smallest_does_not_fit(images: Tensor, num_micro_batches: int) -> UserError:
    num_parts = max(1, min(num_micro_batches, len(images) // 2))
    size = -(-len(images) // num_parts)
    return UserError(
        f"There is not enough memory for {counted(size, 'image')} at {images.shape[-1]} pixels.",
        SMALLER,
    )
