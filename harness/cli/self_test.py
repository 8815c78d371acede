"""A few seconds of the real thing: images made on the spot, a beton, and two loaders that must agree."""

import time
from pathlib import Path

from loaders import open_loader
from loaders.plan import LoaderPlan
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.subset.spec import everything

MAX_MEAN_DIFFERENCE = (
    1.5  # levels of 255: Pillow decodes JPEG with the accurate inverse DCT, FFCV with the fast
)


def compare_backends(folder: Path) -> str:
    """Write a small beton into `folder`, load it with FFCV and with the reference; returns what was found.

    Raises AssertionError where the two disagree.
    """
    started = time.monotonic()
    source = open_dataset("synthetic_patterns", folder / "raw", SplitSettings())
    file = folder / "val.beton"
    manifest = write_split(
        source, "val", everything(source.classes), Encoding(max_resolution=128), file
    )
    assert manifest.num_jpeg and manifest.num_raw, (
        "of these images some are stored as JPEG and some as pixels"
    )
    batches = {}
    for backend in ("reference", "ffcv"):
        plan = LoaderPlan(file, batch_size=16, resolution=32, backend=backend)
        with open_loader(plan) as loader, loader.epoch(0) as epoch:
            images, labels = next(iter(epoch))
            batches[backend] = images.clone(), labels.clone()
    (reference, labels), (fast, fast_labels) = batches["reference"], batches["ffcv"]
    assert labels.tolist() == fast_labels.tolist(), "FFCV and the reference give different labels"
    difference = (reference.float() - fast.float()).abs().mean().item()
    assert difference <= MAX_MEAN_DIFFERENCE, (
        f"FFCV and the reference differ by {difference:.2f} levels a pixel"
    )
    return (
        f"wrote {manifest.num_samples} images, {manifest.num_jpeg} of them as JPEG, loaded them with FFCV and with the "
        f"reference: they agree ({time.monotonic() - started:.1f} s)"
    )
