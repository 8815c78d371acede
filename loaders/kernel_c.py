"""Python binding of the C kernel, loaders/kernel.c."""

import ctypes
import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from loaders.interpolation import Interpolation, number_of
from writers.jpeg import native as kernel
from writers.random_streams import MASK

MODULE, VERSION = "loaders._kernel", 6  # extension module, and its version as in kernel.h
_NUM_ISAS = 6  # number of instruction sets, as in native/stages.h
DAMAGED, OUT_OF_MEMORY = 1, 2  # values of error_codes, as in native/worker.h
# Types of offsets, sizes, modes, widths and heights.
_FILE_COLUMNS = (np.int64, np.int64, np.uint8, np.int64, np.int64)


def library() -> ctypes.CDLL | None:
    """Load the C kernel.

    Returns None if the library was not built, as without a C compiler or libjpeg-turbo's headers,
    if it cannot be loaded, or if it has another version than VERSION.
    """
    opened = kernel.open_library(MODULE, VERSION)
    if opened is not None:
        opened.harness_isa_name.restype = ctypes.c_char_p
        opened.harness_new_pool.restype = ctypes.c_void_p
        opened.harness_free_pool.argtypes = [ctypes.c_void_p]
        opened.harness_make_batch.argtypes = [
            *[ctypes.c_void_p] * 10,
            *[ctypes.c_int64] * 3,
            ctypes.c_int,
            *[ctypes.c_void_p] * 5,
            ctypes.c_int,
        ]
        opened.harness_decode_whole.argtypes = [
            *[ctypes.c_void_p] * 9,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 3,
            ctypes.c_int,
        ]
    return opened


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the C kernel supports on this CPU, the fastest first."""
    opened = library()
    if opened is None:
        return ()
    # Number 0 names the instruction set in use.
    names = [opened.harness_isa_name(number) for number in range(_NUM_ISAS)]
    return tuple(dict.fromkeys(name.decode() for name in names if name is not None))


@dataclass(frozen=True)
class StoredImages:
    """Images of a file that is in memory; see `stored_images`.

    Attributes:
        file: uint8 [bytes], the whole `.beton` file.
        columns: offsets, sizes, modes, widths and heights of the images, each [N], in the C
            kernel's dtypes, contiguous.
        addresses: addresses of the file and of each column. They are kept because numpy takes about
            a microsecond to return an address.
    """

    file: np.ndarray
    columns: tuple[np.ndarray, ...]
    addresses: tuple[int, ...]


def stored_images(file: np.ndarray, *columns: np.ndarray) -> StoredImages:
    """Prepare images for the C kernel.

    Args:
        file: uint8, the whole `.beton` file.
        columns: offsets, sizes, modes, widths and heights of the images, each [n].
    """
    converted = tuple(
        np.ascontiguousarray(column, dtype)
        for column, dtype in zip(columns, _FILE_COLUMNS, strict=True)
    )
    return StoredImages(file, converted, tuple(array.ctypes.data for array in (file, *converted)))


class Pool:
    """C threads that decode batches.

    The threads end when `close` is called or the pool is dropped. A forked process starts its own
    threads.
    """

    def __init__(self, num_threads: int, instruction_set: str | None = None) -> None:
        """Create a pool; threads start with the first batch.

        Args:
            num_threads: threads, including the caller's.
            instruction_set: one of `instruction_sets()`. None means the fastest. All give the same
                pixels.

        Raises:
            MemoryError: the pool cannot be allocated.
            ValueError: this CPU lacks the instruction set.
        """
        opened = library()
        assert opened is not None, "loaders.kernel checks first whether the C kernel exists"
        self._isa = 0 if instruction_set is None else _number_of(opened, instruction_set)
        self._make_batch = opened.harness_make_batch
        self._decode_whole = opened.harness_decode_whole
        self._pool = opened.harness_new_pool(num_threads)
        if self._pool is None:
            raise MemoryError(f"no memory for a pool of {num_threads} threads")
        self.close = weakref.finalize(self, opened.harness_free_pool, self._pool)

    def make_batch(
        self,
        images: StoredImages,
        positions: np.ndarray,
        boxes: np.ndarray,
        flips: np.ndarray,
        output: np.ndarray,
        error_codes: np.ndarray,
        table: np.ndarray,
        conversion: np.ndarray | None = None,
        interpolation: Interpolation = "area",
    ) -> None:
        """Decode a batch without the GIL.

        Args:
            images: the file's images.
            positions: int64 [n], row of each image in the columns.
            boxes: int64 [n * k, 4].
            flips: bool [n * k].
            output: [n, R, R, 3], or [n, k, R, R, 3]; uint8, or float16 with a table.
            error_codes: uint8 [n], set to 0, DAMAGED or OUT_OF_MEMORY.
            table: float16 [3, 256], or [0, 256] for uint8 output.
            conversion: float32 [2, 3] of loaders.normalize.conversion, from which the table's
                values are computed. None means that they are read from the table.
            interpolation: filter of the resize.

        Raises:
            RuntimeError: the pool is closed.
        """
        if not self.close.alive:  # its memory is freed
            raise RuntimeError("This pool is closed.")
        n, resolution, num_crops = len(output), output.shape[-2], math.prod(output.shape[1:-3])
        boxes, flips = np.ascontiguousarray(boxes, np.int64), np.ascontiguousarray(flips, np.bool_)
        assert boxes.shape == (n * num_crops, 4) and flips.shape == (n * num_crops,)
        assert error_codes.shape == (n,)
        # A variable keeps a converted copy alive until the call ends; its address alone would not.
        positions = np.ascontiguousarray(positions, np.int64)
        assert positions.shape == (n,) and _are_rows(positions, images)
        assert output.flags.c_contiguous and output.shape[-3:] == (resolution, resolution, 3)
        assert output.dtype == (np.float16 if len(table) else np.uint8)
        assert table.flags.c_contiguous and table.dtype == np.float16
        assert conversion is None or (
            conversion.flags.c_contiguous and conversion.dtype == np.float32
        )
        file, *columns = images.addresses
        shift, scale = conversion if conversion is not None else (None, None)
        made = self._make_batch(
            self._pool,
            file,
            positions.ctypes.data,
            *columns,
            boxes.ctypes.data,
            flips.ctypes.data,
            n,
            num_crops,
            resolution,
            number_of(interpolation),
            output.ctypes.data,
            error_codes.ctypes.data,
            table.ctypes.data if len(table) else None,
            None if shift is None else shift.ctypes.data,
            None if scale is None else scale.ctypes.data,
            self._isa,
        )
        assert made, "the instruction set was there when the pool was made"

    def decode_whole(
        self,
        images: StoredImages,
        positions: np.ndarray,
        flips: np.ndarray,
        starts: np.ndarray,
        output: np.ndarray,
        error_codes: np.ndarray,
    ) -> None:
        """Decode whole images without the GIL.

        Args:
            images: the file's images.
            positions: int64 [n], row of each image in the columns.
            flips: bool [n].
            starts: int64 [n], index in `output` of each image's planes, uint8 [3, H, W].
            output: uint8 [size], with room for all planes.
            error_codes: uint8 [n], set to 0, DAMAGED or OUT_OF_MEMORY.

        Raises:
            RuntimeError: the pool is closed.
        """
        if not self.close.alive:  # its memory is freed
            raise RuntimeError("This pool is closed.")
        n = len(positions)
        positions, starts = (np.ascontiguousarray(array, np.int64) for array in (positions, starts))
        flips = np.ascontiguousarray(flips, np.bool_)
        assert flips.shape == starts.shape == error_codes.shape == (n,)
        assert _are_rows(positions, images)
        assert output.dtype == error_codes.dtype == np.uint8 and output.flags.c_contiguous
        _, _, _, widths, heights = images.columns
        ends = starts + 3 * widths[positions] * heights[positions]
        assert not n or (starts.min() >= 0 and ends.max() <= output.size)
        file, *columns = images.addresses
        made = self._decode_whole(
            self._pool,
            file,
            positions.ctypes.data,
            *columns,
            flips.ctypes.data,
            n,
            starts.ctypes.data,
            output.ctypes.data,
            error_codes.ctypes.data,
            self._isa,
        )
        assert made, "the instruction set was there when the pool was made"


@functools.cache
def crop_chooser() -> Callable[..., None] | None:
    """Return `choose_random_crops`, or None without the C kernel."""
    opened = library()
    if opened is None:
        return None
    choose = opened.harness_choose_crops
    choose.restype = None
    choose.argtypes = [
        *[ctypes.c_uint64] * 2,
        *[ctypes.c_void_p] * 3,
        *[ctypes.c_int64] * 2,
        ctypes.c_void_p,
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
    ]

    def choose_random_crops(
        seed: int,
        epoch: int,
        ids: np.ndarray,
        widths: np.ndarray,
        heights: np.ndarray,
        ranges: np.ndarray,
        has_flips: bool,
        boxes: np.ndarray,
        flips: np.ndarray,
    ) -> None:
        """Fill in k random crops of n samples without the GIL; see `loaders.crops`.

        Args:
            seed: seed of the plan.
            epoch: number of the epoch.
            ids: uint64 [n], contiguous.
            widths: int64 [n], contiguous.
            heights: int64 [n], contiguous.
            ranges: float64 [6]: smallest and largest fraction of the area, smallest and largest
                ratio, and the logarithms of these two ratios.
            has_flips: True draws flips; False mirrors no crop.
            boxes: int64 [n, k, 4].
            flips: bool [n, k].
        """
        columns = (ids, widths, heights)
        choose(
            seed & MASK,
            epoch & MASK,
            *[column.ctypes.data for column in columns],
            *flips.shape,
            ranges.ctypes.data,
            has_flips,
            boxes.ctypes.data,
            flips.ctypes.data,
        )

    return choose_random_crops


def open_kernel(instruction_set: str | None = None) -> Callable[..., None]:
    """Return `decode_images` of loaders/kernel.py, which decodes on the calling thread.

    `instruction_set` is that of `Pool`; None means the fastest.
    """
    pool = Pool(1, instruction_set)

    def decode_images(
        file: np.ndarray, *columns: np.ndarray, interpolation: Interpolation = "area"
    ) -> None:
        boxes, flips, output, has_error, table = columns[len(_FILE_COLUMNS) :]
        error_codes = np.zeros(len(output), np.uint8)
        images = stored_images(file, *columns[: len(_FILE_COLUMNS)])
        pool.make_batch(
            images,
            np.arange(len(output)),
            boxes,
            flips,
            output,
            error_codes,
            table,
            interpolation=interpolation,
        )
        if (error_codes == OUT_OF_MEMORY).any():
            place = int(np.flatnonzero(error_codes == OUT_OF_MEMORY)[0])
            raise memory_error(int(columns[3][place]), int(columns[4][place]))
        has_error[:] = error_codes == DAMAGED

    return decode_images


@dataclass(frozen=True)
class PartTimes:
    """CPU time of the parts of the kernel on one thread, in seconds.

    Attributes:
        entropy: header and Huffman codes of JPEGs; 0 for other images.
        transform: inverse DCT; for dct images, also unpacking the coefficients.
        color: chroma upsampling and color conversion; for raw images, splitting the pixels into
            color planes.
        resize: resize, flip and output.
    """

    entropy: float
    transform: float
    color: float
    resize: float


def time_parts(
    images: StoredImages,
    boxes: np.ndarray,
    flips: np.ndarray,
    output: np.ndarray,
    instruction_set: str,
) -> PartTimes:
    """Make a batch on the calling thread, part by part, and return the CPU time of each part.

    Args:
        images: raw, dct, or JPEG with a restart index.
        boxes: int64 [n, 4].
        flips: bool [n].
        output: uint8 [n, R, R, 3].
        instruction_set: one of `instruction_sets()`.

    Raises:
        ValueError: an image is damaged or a JPEG without an index, or this CPU lacks the
            instruction set.
    """
    opened = library()
    assert opened is not None, "instruction_sets() is empty without the C kernel"
    opened.harness_time_parts.restype = ctypes.c_int64
    seconds = (ctypes.c_double * len(fields(PartTimes)))()
    boxes, flips = np.ascontiguousarray(boxes, np.int64), np.ascontiguousarray(flips, np.bool_)
    done = opened.harness_time_parts(
        *[ctypes.c_void_p(address) for address in images.addresses],
        ctypes.c_void_p(boxes.ctypes.data),
        ctypes.c_void_p(flips.ctypes.data),
        ctypes.c_int64(len(output)),
        ctypes.c_int64(output.shape[1]),
        ctypes.c_void_p(output.ctypes.data),
        _number_of(opened, instruction_set),
        seconds,
    )
    if done < len(output):
        raise ValueError(f"image {done} is damaged, or is a JPEG without a restart index")
    return PartTimes(*seconds)


def memory_error(width: int, height: int) -> MemoryError:
    """Build the error for an image that is too large to decode."""
    return MemoryError(f"no memory to decode an image of {width} x {height} pixels")


def _are_rows(positions: np.ndarray, images: StoredImages) -> bool:
    """Return True if all positions are rows of the columns. C does not check them."""
    return not len(positions) or bool(
        0 <= positions.min() <= positions.max() < len(images.columns[0])
    )


def _number_of(opened: ctypes.CDLL, instruction_set: str) -> int:
    for number in range(1, _NUM_ISAS):
        name = opened.harness_isa_name(number)
        if name is not None and name.decode() == instruction_set:
            return number
    raise ValueError(f"this processor has {', '.join(instruction_sets())}, not {instruction_set}")
