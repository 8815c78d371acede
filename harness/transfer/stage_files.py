"""Files that a transfer stage keeps in its folder only until it has its result."""

import shutil
from pathlib import Path

from harness.runner.context import StageContext
from harness.train.loader_plans import split_path
from writers.beton.concat import concat_splits

CHECKPOINTS = "checkpoints"  # folder of the search
TRAIN_AND_VAL = "trainval.beton"


def write_train_and_val(context: StageContext) -> Path:
    """Write train and val of the stage's target to one `.beton` file for the final fit."""
    file = context.folder / TRAIN_AND_VAL
    splits = [split_path(context, "data", split) for split in ("train", "val")]
    concat_splits(splits, file, split="trainval")
    return file


def remove_temporary_files(folder: Path) -> None:
    """Remove the checkpoints of the search, and the file of `write_train_and_val`."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for file in folder.glob(f"{TRAIN_AND_VAL}*"):
        file.unlink()
