"""A few seconds of the real thing: images made on the spot, a beton, and two loaders that must agree."""

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
    """Write a small beton into `folder`, load it with FFCV and with the reference; returns what was found.

    Raises AssertionError if one label or one level of a pixel differs. Both backends decode with the accurate inverse DCT and
    average the same areas, and no exact value of these images is nearer to a rounding tie than 4e-5 of a level.
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
        plan = LoaderPlan(file, batch_size=16, resolution=32, horizontal_flip=True, backend=backend)
        with open_loader(plan) as loader, loader.epoch(0) as epoch:
            seen = [(images.clone(), labels.clone()) for images, labels in epoch]
        batches[backend] = tuple(torch.cat(parts) for parts in zip(*seen, strict=True))
    (reference, labels), (fast, fast_labels) = batches["reference"], batches["ffcv"]
    assert labels.tolist() == fast_labels.tolist(), "FFCV and the reference give different labels"
    different = int((reference != fast).sum())
    assert different == 0, (
        f"FFCV and the reference differ in {different:,} of {reference.numel():,} values, by up to "
        f"{int((reference.int() - fast.int()).abs().max())} levels"
    )
    return (
        f"wrote {manifest.num_samples} images, {manifest.num_jpeg} of them as JPEG, loaded them with FFCV and with the "
        f"reference: they agree ({time.monotonic() - started:.1f} s)"
    )
