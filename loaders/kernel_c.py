"""The C kernel, loaders/kernel.c, as Python calls it."""

import ctypes
from collections.abc import Callable

import numpy as np

from writers import kernel

MODULE, VERSION = "loaders._kernel", 2  # as in kernel.h
_NUM_ISAS = 3  # as in native/stages.h
_COLUMNS = (
    np.int64,
    np.int64,
    np.uint8,
    np.int64,
    np.int64,
    np.int64,
    np.bool_,
)  # offsets ... flips


def library() -> ctypes.CDLL | None:
    """None: libjpeg-turbo's headers were not there at the installation, or the sources were others."""
    opened = kernel.open_library(MODULE, VERSION)
    if opened is not None:
        opened.harness_isa_name.restype = ctypes.c_char_p
    return opened


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that the C kernel has code for and this processor has, the fastest first."""
    opened = library()
    if opened is None:
        return ()
    names = []
    for number in range(_NUM_ISAS - 1, 0, -1):
        if (name := opened.harness_isa_name(number)) is not None:
            names.append(name.decode())
    return tuple(names)


def open_kernel(instruction_set: str | None = None) -> Callable[..., None]:
    """`decode_images` of loaders/kernel.py. ctypes releases Python's lock while a call lasts.

    instruction_set: one of `instruction_sets()`; None: the fastest. All give the same pixels.
    """
    opened = library()
    assert opened is not None, "loaders.kernel asks first whether there is one"
    isa = 0
    if instruction_set is not None:
        isa = _number_of(opened, instruction_set)
    function = opened.harness_decode_images
    function.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_void_p] * len(_COLUMNS),
        ctypes.c_int64,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 5,
        ctypes.c_int,
    ]

    def decode_images(file: np.ndarray, *columns: np.ndarray) -> None:
        *settings, output, complaints, table = columns
        arrays: list[np.ndarray] = [
            np.ascontiguousarray(column, dtype)
            for column, dtype in zip(settings, _COLUMNS, strict=True)
        ]
        assert (
            output.flags.c_contiguous and complaints.flags.c_contiguous and table.flags.c_contiguous
        )
        assert (
            output.dtype == (np.float16 if len(table) else np.uint8) and table.dtype == np.float16
        )
        n, resolution = output.shape[:2]
        if (
            function(
                file.ctypes.data,
                *[array.ctypes.data for array in arrays],
                n,
                resolution,
                output.ctypes.data,
                complaints.ctypes.data,
                table.ctypes.data if len(table) else None,
                None,
                None,
                isa,
            )
            != 0
        ):
            raise MemoryError(
                f"no memory to decode an image of up to {int(max(columns[3]))} x {int(max(columns[4]))} pixels"
            )

    return decode_images


def _number_of(opened: ctypes.CDLL, instruction_set: str) -> int:
    for number in range(1, _NUM_ISAS):
        name = opened.harness_isa_name(number)
        if name is not None and name.decode() == instruction_set:
            return number
    raise ValueError(f"this processor has {', '.join(instruction_sets())}, not {instruction_set}")
