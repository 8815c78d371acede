"""Which code decodes: the C kernel where it was built, else the numba kernel. They give the same pixels.

A kernel is a function `decode_images(file, offsets, sizes, modes, widths, heights, boxes, flips, output, complaints, table)`
that fills a run of n images and holds no Python lock: `file` is all of the beton (uint8), the columns are as in
`loaders.reader.Samples` and `loaders.augment.Crops`, `output` is [n, R, R, 3], and in `complaints` (bool [n]) it notes where
libjpeg-turbo had an error or a warning on which pixels depend, or where an image has other sizes than its row says. `table` is
that of `loaders.normalize`: empty, and `output` is uint8, or what to write for a level, and `output` is float16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from loaders import kernel_c
from writers.jpeg.native import CURE, is_outdated

Kernel = Callable[..., None]
KernelName = Literal["c", "numba"]


def open_kernel(library: Path, name: KernelName | None = None) -> Kernel:
    """`library`: a shared object that is linked to libturbojpeg, as FFCV's is. `name`: None takes the fastest there is."""
    if (name or best_kernel()) == "c":
        return kernel_c.open_kernel()
    from loaders import kernel_numba  # here: numba's compiler, which the C kernel does without

    return kernel_numba.open_kernel(library)


def best_kernel() -> KernelName:
    return "numba" if kernel_c.library() is None else "c"


def describe() -> str:
    """One line for `harness doctor`: what decodes, and how to get what is faster."""
    if best_kernel() == "c":
        return f"C kernel, {kernel_c.instruction_sets()[0]}"
    found = (
        "is of another version"
        if is_outdated(kernel_c.MODULE, kernel_c.VERSION)
        else "was not built"
    )
    return f"numba kernel; the C kernel, which is faster, {found}. {CURE}"
