"""Select the decoding kernel: C if it was built, otherwise numba. Both give the same pixels.

A kernel is a function `decode_images(file, offsets, sizes, modes, widths, heights, boxes, flips,
output, has_error, table, interpolation="area")` that decodes n images without the GIL. `file` is
the whole `.beton` file (uint8). `loaders.reader.Samples` describes the columns `offsets` to
`heights`, each [n]; `loaders.crops.Crops` describes `boxes`, int64 [n, 4], and `flips`, bool [n].
`output` is [n, R, R, 3]. `has_error` (bool [n]) is set if libjpeg-turbo had an error or a warning
that affects pixels, or if the image's size differs from `widths` and `heights`. `table` is the
lookup table of `loaders.normalize`: if it is empty, `output` is uint8; otherwise it maps levels to
float16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from loaders import kernel_c
from writers.jpeg.native import REINSTALL, is_outdated

Kernel = Callable[..., None]
KernelName = Literal["c", "numba"]


def open_kernel(library: Path, name: KernelName | None = None) -> Kernel:
    """Return a kernel function.

    Args:
        library: shared object that is linked to libturbojpeg, such as FFCV's.
        name: kernel to use. None means the fastest available.
    """
    if (name or best_kernel()) == "c":
        return kernel_c.open_kernel()
    # Imported here: the C kernel does not need numba's compiler.
    from loaders import kernel_numba

    return kernel_numba.open_kernel(library)


def best_kernel() -> KernelName:
    """Return the name of the fastest available kernel."""
    return "numba" if kernel_c.library() is None else "c"


def describe() -> str:
    """Describe the kernel in use for `harness doctor`, and how to get the faster one."""
    if best_kernel() == "c":
        return f"C kernel, {kernel_c.instruction_sets()[0]}"
    found = (
        "is of another version"
        if is_outdated(kernel_c.MODULE, kernel_c.VERSION)
        else "was not built"
    )
    return f"numba kernel; the C kernel, which is faster, {found}. {REINSTALL}"
