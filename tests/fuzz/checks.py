"""Check a case with public functions.

A finding is a returned string, an undocumented exception or a crash.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loaders import kernel_c
from tests.fuzz.cases import Case, image_case
from writers.beton.encode import UnreadableError, encode
from writers.beton.encoding import DCT, JPEG, Encoding
from writers.dct import blob as dct
from writers.jpeg import turbojpeg
from writers.jpeg.restart_index import DamagedJpegError, add_restart_index

R = 16  # width and height of the output in pixels
WRITTEN_EVERY = 4  # every fourth case is passed to the writers, too, which takes longer


@functools.cache
def kernels() -> dict[str, Callable[..., None]]:
    """The C kernel for each instruction set of this CPU, and the numba kernel, by name."""
    from loaders import kernel_numba

    found = {name: kernel_c.open_kernel(name) for name in kernel_c.instruction_sets()}
    return found | {"numba": kernel_numba.open_kernel(_ffcv_library())}


def _ffcv_library() -> Path:
    """FFCV's shared object, which is linked to libjpeg-turbo; found without an import of torch."""
    spec = importlib.util.find_spec("ffcv")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    return next(path for place in (folder, folder.parent) for path in place.glob("_libffcv*.so"))


def decoded(name: str, case: Case, mode: int) -> np.ndarray | None:
    """Pixels of the case's box, uint8 [R, R, 3]; None if the kernel refuses the image.

    The image ends where its array ends, so that a sanitizer reports each read past the image.
    """
    file = np.zeros(max(4096, len(case.data)), np.uint8)
    offset = len(file) - len(case.data)
    file[offset:] = np.frombuffer(case.data, np.uint8)
    output, has_error = decode(
        name,
        file,
        np.array([offset]),
        np.array([len(case.data)]),
        np.array([mode], np.uint8),
        np.array([case.width]),
        np.array([case.height]),
        np.array([case.box]),
    )
    return None if has_error[0] else output[0]


def decode(
    name: str,
    file: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    modes: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    boxes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode images of a file; return pixels, uint8 [N, R, R, 3], and which failed, bool [N]."""
    number = len(offsets)
    output, has_error = np.zeros((number, R, R, 3), np.uint8), np.zeros(number, bool)
    is_flipped, tables = np.zeros(number, bool), np.empty((0, 256), np.float16)
    columns = (offsets, sizes, modes, widths, heights)
    kernels()[name](file, *columns, boxes, is_flipped, output, has_error, tables)
    return output, has_error


def compile_kernels() -> None:
    """Load the kernels and compile the numba kernel before the time limit of a case applies."""
    nothing, no_numbers = np.zeros(0, np.uint8), np.zeros(0, np.int64)
    boxes = np.zeros((0, 4), np.int64)
    for name in kernels():
        decode(name, nothing, no_numbers, no_numbers, nothing, no_numbers, no_numbers, boxes)


def check_image_case(target: str, seed: int, number: int) -> str:
    """Return what is wrong with the case, or ''."""
    case = image_case(target, seed, number)
    if target == "dct":
        return _check_dct(case, number)
    c_names = [name for name in kernels() if name != "numba"]
    first = c_names[number % len(c_names)]
    results = {name: decoded(name, case, JPEG) for name in (first, "numba")}
    if problem := difference(results):
        return problem
    if number % WRITTEN_EVERY == 0:
        return _check_writers(case, results[first])
    return ""


def difference(results: dict[str, np.ndarray | None]) -> str:
    """Describe how results differ from the first one, or return ''.

    Args:
        results: name of a kernel or copy -> its pixels; None if the image was refused.
    """
    (first_name, first), *others = results.items()
    for name, other in others:
        if (first is None) != (other is None):
            refuses, accepts = (first_name, name) if first is None else (name, first_name)
            return f"{refuses} refuses what {accepts} accepts"
        if first is not None and other is not None and not np.array_equal(first, other):
            return f"{first_name} and {name} give different pixels"
    return ""


def _check_writers(case: Case, pixels: np.ndarray | None) -> str:
    """Convert the JPEG as writers do; each copy must decode to the pixels of the original.

    Args:
        case: the JPEG.
        pixels: those of the original; None if the kernels refuse it.

    Returns:
        A description of the first fault, or ''.
    """
    for encoding in (
        Encoding(format="passthrough"),
        Encoding(format="jpeg"),
        Encoding(format="raw"),
    ):
        try:
            encode(case.data, encoding, check=True)
        except UnreadableError:
            continue
    recoded: dict[int, bytes] = {}
    for mode, convert in ((JPEG, add_restart_index), (DCT, dct.from_jpeg)):
        try:
            data = convert(case.data)
        except DamagedJpegError:
            continue
        if data is not None and data != case.data:
            recoded[mode] = data
    for mode, data in recoded.items():
        if mode == DCT and dct.check(data) != _size_of(case.data):
            return "a dct blob differs from its JPEG in width or height"
        if _size_of(case.data) != (case.width, case.height):
            continue
        again = decoded("numba" if mode == JPEG else _fastest(), replaced(case, data), mode)
        if problem := difference({"the JPEG": pixels, f"its copy in mode {mode}": again}):
            return problem
    return ""


def _check_dct(case: Case, number: int) -> str:
    names = [name for name in kernels() if name != "numba"]
    results = {name: decoded(name, case, DCT) for name in names}
    if problem := difference(results):
        return problem
    try:
        is_whole = dct.check(case.data) == (case.width, case.height)
    except dct.DamagedBlobError:
        return ""
    pixels = results[names[0]]
    if is_whole and pixels is None:
        return "dct.check accepts what a kernel refuses"
    if not is_whole or number % WRITTEN_EVERY:
        return ""
    try:
        jpeg = dct.to_jpeg(case.data)
    except dct.DamagedBlobError:
        return ""
    again = decoded(names[0], replaced(case, jpeg), JPEG)
    return difference({"the blob": pixels, "its JPEG": again})


def replaced(case: Case, data: bytes) -> Case:
    """The same case with other bytes."""
    return Case(data, case.width, case.height, case.box)


def _fastest() -> str:
    return kernel_c.instruction_sets()[0]


def _size_of(jpeg: bytes) -> tuple[int, int] | None:
    try:
        return turbojpeg.check(jpeg)
    except turbojpeg.JpegError:
        return None
