"""A self-test of a few seconds: generate images, write a `.beton` file, compare two loaders."""

import time
from pathlib import Path

import torch

from loaders import open_loader
from loaders.plan import LoaderPlan
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.subset.spec import everything


def compare_backends(folder: Path) -> str:
    """Write a small beton into the folder and load it with the ffcv and the reference backend.

    Both backends decode with the accurate inverse DCT and average the same areas. In these images,
    exact values are at least 4e-5 levels away from a rounding tie. Both must therefore round to the
    same pixels.

    Returns:
        One line for `harness doctor`.

    Raises:
        AssertionError: A label or a pixel differs, or the images are all JPEG or all raw.
    """
    started = time.monotonic()
    source = open_dataset("synthetic_patterns", folder / "raw", SplitSettings())
    file = folder / "val.beton"
    manifest = write_split(
        source, "val", everything(source.classes), Encoding(max_resolution=128), file
    )
    assert manifest.num_jpeg and manifest.num_raw, "the beton must have JPEG and raw images"
    batches = {}
    for backend in ("reference", "ffcv"):
        plan = LoaderPlan(file, batch_size=16, resolution=32, horizontal_flip=True, backend=backend)
        with open_loader(plan) as loader, loader.epoch(0) as epoch:
            epoch_batches = [(images.clone(), labels.clone()) for images, labels in epoch]
        batches[backend] = tuple(torch.cat(parts) for parts in zip(*epoch_batches, strict=True))
    (reference, labels), (ffcv, ffcv_labels) = batches["reference"], batches["ffcv"]
    assert labels.tolist() == ffcv_labels.tolist(), "FFCV and the reference differ in labels"
    num_different = int((reference != ffcv).sum())
    assert num_different == 0, (
        f"FFCV and the reference differ in {num_different:,} of {reference.numel():,} values, by "
        f"up to {int((reference.int() - ffcv.int()).abs().max())} levels"
    )
    return (
        f"wrote {manifest.num_samples} images, {manifest.num_jpeg} of them as JPEG; FFCV and the "
        f"reference load the same pixels ({time.monotonic() - started:.1f} s)"
    )
