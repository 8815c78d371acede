"""Decode, crop, resize and flip a batch in one pass from the mapped file into the batch's memory.

`BatchDecoder.decode` is one call of the C kernel, which decodes the images of a batch on its own
threads without the GIL. Without the C kernel, the batch is split into short runs of images for a
few Python threads; each run is one call of the numba kernel (loaders/kernel.py), also without the
GIL. JPEGs are decoded to scratch memory of each thread. If a JPEG has a restart index
(writers/jpeg/restart_index.py), only the part under the crop is decoded. Raw images are read in
place. native/resize.c describes the resize.

Numba's parallel loops are not used. With some threading layers, two loaders must not enter numba's
thread pool at the same time; the pool does not survive a fork; and parallel loops take seconds more
to compile.
"""

import ctypes
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from loaders import kernel, kernel_c
from loaders.crops import Crops
from loaders.interpolation import Interpolation
from loaders.reader import Samples
from writers.beton.encoding import DCT
from writers.errors import UserError

# Runs of images per thread and batch. More runs balance large and small images better; fewer runs
# have less overhead.
_RUNS_PER_THREAD = 4


class BatchDecoder:
    """Decode batches of the images in one `.beton` file."""

    def __init__(
        self,
        samples: Samples,
        num_threads: int,
        library: Path,
        *,
        table: np.ndarray | None = None,
        conversion: np.ndarray | None = None,
        interpolation: Interpolation = "area",
        content: np.ndarray | None = None,
        scattered: bool = False,
    ) -> None:
        """Map the file and start the threads.

        `scattered` turns the system's read-ahead off. Read-ahead is faster if the file stays in
        memory; otherwise it reads the same parts of the file many times. Measured once: two passes
        over every second image of a 0.63 GB file in a container of 0.9 GB read 19.8 GB with
        read-ahead and 0.65 GB without (Linux 6, read-ahead of 8 MiB).

        Args:
            samples: columns of the samples.
            num_threads: decoding threads.
            library: shared object that is linked to libturbojpeg, such as FFCV's.
            table: float16 [3, 256] of loaders.normalize. None means uint8 output.
            conversion: float32 [2, 3] of loaders.normalize, from which the C kernel computes the
                table's values. None means that it reads the table.
            interpolation: filter of the resize.
            content: uint8 buffer that `samples.offsets` point into. None means the mapped file.
            scattered: read only the images passed to `prefetch`, with no read-ahead.

        Raises:
            UserError: the file has dct images and the C kernel is missing.
        """
        self._library = library
        self._pool: kernel_c.Pool | None = None
        self._threads: ThreadPoolExecutor | None = None
        if kernel.best_kernel() == "c":
            self._pool = kernel_c.Pool(num_threads)
        else:
            if (samples.modes == DCT).any():
                raise UserError(
                    f"{samples.path} has dct images, which only the C kernel decodes: "
                    f"{kernel.describe()}",
                    "Or write it as JPEG: `harness write-beton --format passthrough`.",
                )
            self._decode_images = kernel.open_kernel(library, "numba")
            if num_threads > 1:
                self._threads = ThreadPoolExecutor(num_threads, "harness-decode")
        self._map: mmap.mmap | None = None
        if content is None:
            with samples.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            content = np.frombuffer(mapped, np.uint8)
            if scattered:
                mapped.madvise(mmap.MADV_RANDOM)
                self._map = mapped
        self._samples = samples
        self._table = np.empty((0, 256), np.float16) if table is None else table
        self._conversion = conversion
        self._interpolation: Interpolation = interpolation
        self._num_threads = num_threads
        self._images: kernel_c.StoredImages | None = kernel_c.stored_images(
            content,
            samples.offsets,
            samples.sizes,
            samples.modes,
            samples.widths,
            samples.heights,
        )

    def decode(
        self, positions: np.ndarray, crops: Crops, output: np.ndarray
    ) -> dict[int, UserError]:
        """Decode a batch into `output`.

        Args:
            positions: int64 [B], rows of the images in the columns of samples.
            crops: k crops of each image.
            output: [B, R, R, 3], or [B, k, R, R, 3]; uint8, or float16 with a table.

        Returns:
            Row of the batch -> error, for images that do not decode; their pixels are undefined.

        Raises:
            MemoryError: an image is too large to decode; a note names the sample.
            RuntimeError: the decoder is closed.
        """
        if self._images is None:
            raise RuntimeError("This loader is closed.")
        samples = self._samples
        error_codes = np.zeros(len(positions), np.uint8)
        if self._pool is not None:
            self._pool.make_batch(
                self._images,
                positions,
                crops.boxes,
                crops.flips,
                output,
                error_codes,
                self._table,
                self._conversion,
                self._interpolation,
            )
        else:
            num_crops = len(crops.flips) // max(1, len(positions))
            crop_codes = np.zeros(len(crops.flips), np.uint8)
            flat = output.reshape(-1, *output.shape[-3:])
            self._decode_in_runs(np.repeat(positions, num_crops), crops, flat, crop_codes)
            error_codes = crop_codes.reshape(len(positions), -1).max(axis=1, initial=0)
        for row in np.flatnonzero(error_codes == kernel_c.OUT_OF_MEMORY).tolist():
            raise samples.memory_error(positions[row])
        return {
            row: samples.decode_error(position, self._error_message(position))
            for row, position in zip(
                np.flatnonzero(error_codes).tolist(),
                positions[error_codes != 0].tolist(),
                strict=True,
            )
        }

    def _decode_in_runs(
        self, positions: np.ndarray, crops: Crops, output: np.ndarray, error_codes: np.ndarray
    ) -> None:
        """Decode with the numba kernel: each Python thread decodes runs of images.

        Args:
            positions: int64 [C], the image of each crop.
            crops: C crops.
            output: [C, R, R, 3], as in `decode`.
            error_codes: uint8 [C], set to a nonzero value for each image that does not decode.
        """
        if self._images is None:
            raise RuntimeError("This loader is closed.")
        samples, file = self._samples, self._images.file
        columns = (
            *(column[positions] for column in self._images.columns),
            crops.boxes,
            crops.flips,
            output,
            error_codes,
        )

        def decode_run(run: slice) -> None:
            try:
                self._decode_images(
                    file,
                    *(column[run] for column in columns),
                    self._table,
                    interpolation=self._interpolation,
                )
            except Exception as error:
                # After e.g. a MemoryError, retry one image at a time to find the sample.
                rows = range(*run.indices(len(positions)))
                if len(rows) == 1:
                    error.add_note(
                        f"At sample {samples.indices[positions[rows[0]]]} of {samples.path}."
                    )
                    raise
                for row in rows:
                    decode_run(slice(row, row + 1))

        if self._threads is None:
            decode_run(slice(None))
        else:
            length = max(1, -(-len(positions) // (self._num_threads * _RUNS_PER_THREAD)))
            runs = [slice(start, start + length) for start in range(0, len(positions), length)]
            list(self._threads.map(decode_run, runs))

    def prefetch(self, positions: np.ndarray) -> None:
        """Start reading the images at `positions`, int64 [B], in the background.

        Has an effect only with `scattered`; otherwise the system reads ahead.
        """
        if self._map is None:
            return
        begins = self._samples.offsets[positions] // mmap.PAGESIZE * mmap.PAGESIZE
        ends = self._samples.offsets[positions] + self._samples.sizes[positions]
        for begin, length in zip(begins.tolist(), (ends - begins).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, begin, length)

    def _error_message(self, position: int) -> str:
        """Return libjpeg-turbo's first message about a JPEG that a kernel reported as damaged."""
        if self._samples.modes[position] == DCT:
            return "its coefficients are damaged"
        begin, size = int(self._samples.offsets[position]), int(self._samples.sizes[position])
        wanted = int(self._samples.widths[position]), int(self._samples.heights[position])
        if self._images is None:
            raise RuntimeError("This loader is closed.")
        blob = self._images.file[begin : begin + size].tobytes()
        # Symbols of libturbojpeg resolve through the library that is linked to it.
        turbo = ctypes.CDLL(str(self._library))
        turbo.tjInitDecompress.restype = ctypes.c_void_p
        turbo.tjGetErrorStr2.restype = ctypes.c_char_p
        handle, (width, height, ignored) = (
            ctypes.c_void_p(turbo.tjInitDecompress()),
            (ctypes.c_int() for _ in range(3)),
        )
        try:
            length = ctypes.c_ulong(size)
            if (
                turbo.tjDecompressHeader3(
                    handle,
                    blob,
                    length,
                    ctypes.byref(width),
                    ctypes.byref(height),
                    ctypes.byref(ignored),
                    ctypes.byref(ignored),
                )
                != 0
            ):
                return str(turbo.tjGetErrorStr2(handle).decode())
            if (width.value, height.value) != wanted:
                return (
                    f"it has {width.value} x {height.value} pixels, and {wanted[0]} x "
                    f"{wanted[1]} in the beton's table"
                )
            pixels = ctypes.create_string_buffer(3 * width.value * height.value)
            turbo.tjDecompress2(handle, blob, length, pixels, width, 0, height, 0, 0)
            return str(turbo.tjGetErrorStr2(handle).decode())
        finally:
            turbo.tjDestroy(handle)

    def close(self) -> None:
        """Stop the threads and release the file. May be called more than once."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        if self._pool is not None:
            self._pool.close()
        self._images, self._map = None, None
