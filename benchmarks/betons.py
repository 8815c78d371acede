"""Write a benchmark's JPEGs as FFCV `.beton` files, once per encoding, with our writer."""

import os
from pathlib import Path

from benchmarks.contender import Work
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.subset.spec import everything

ENCODINGS = {
    "jpeg": Encoding(format="passthrough", restart_index=False),
    "restart": Encoding(format="passthrough", restart_index=True),
    "dct": Encoding(format="dct"),
    "jpeg400": Encoding(format="jpeg", max_resolution=400, restart_index=False),
    "restart400": Encoding(format="jpeg", max_resolution=400, restart_index=True),
    "raw": Encoding(format="raw"),
    "raw400": Encoding(format="raw", max_resolution=400),
}


def beton(work: Work, encoding: str) -> Path:
    """Return the `.beton` file of an encoding; write it if it is missing or has other images."""
    source = open_dataset("folder", Path(work.corpus), SplitSettings(val=0))
    path = Path(work.scratch) / encoding / "train.beton"
    try:
        manifest = open_beton(path).manifest
        is_current = (
            manifest.num_samples == len(source.splits["train"])
            and manifest.encoding == ENCODINGS[encoding]
        )
    except UserError:
        is_current = False
    if not is_current:
        write_split(
            source,
            "train",
            everything(source.classes),
            ENCODINGS[encoding],
            path,
            num_threads=len(os.sched_getaffinity(0)),
        )
    return path
