"""This project's loaders."""

import functools

from benchmarks.betons import beton
from benchmarks.contender import Pipeline, Work
from loaders import kernel, kernel_c, open_loader
from loaders.backends import ffcv, resident  # noqa: F401  torch and FFCV are imported before the clock of the call starts
from loaders.plan import LoaderPlan

VARIANTS = {
    "dct": "ours, the coefficients of the source's JPEGs",
    "restart": "ours, the source's JPEGs with a restart index",
    "restart_numba": "ours, the same without a C compiler",
    "jpeg": "ours, the source's JPEG bytes",
    "restart400": "ours, JPEG of quality 90 at 400 px with a restart index",
    "jpeg400": "ours, JPEG of quality 90 at 400 px",
    "raw": "ours, raw pixels",
    "resident": "ours, decoded once and kept on the device",
    "raw400": "ours, raw pixels at 400 px",
}


def prepare(variant: str, work: Work) -> None:
    """Write the `.beton` file if it is missing."""
    beton(work, _encoding(variant))


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open this project's loader."""
    random = work.augment != "center_crop"
    encoding, backend = _encoding(variant), "resident" if variant == "resident" else "ffcv"
    if variant == "restart_numba":
        kernel.best_kernel = lambda: "numba"  # this process has no other loader
    if work.instructions is not None:  # also affects only this loader
        kernel_c.Pool = functools.partial(kernel_c.Pool, instruction_set=work.instructions)  # type: ignore[assignment, misc]
    plan = LoaderPlan(
        beton(work, encoding),
        work.batch_size,
        work.resolution,
        augment=work.augment,
        crop_scale=work.crop_scale,
        horizontal_flip=random,
        order="random",
        num_threads=work.num_threads,
        device=work.device,
        backend=backend,
    )
    return open_loader(plan).epoch


def _encoding(variant: str) -> str:
    return "jpeg" if variant == "resident" else variant.removesuffix("_numba")
