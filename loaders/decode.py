"""Decode, crop, resize and flip a batch in one pass from the mapped file into the batch's memory.

`BatchDecoder.decode` is one call of the C kernel, which makes the images of the batch on threads of its own and holds no Python
lock. Without the C kernel it cuts the batch into short runs for a few threads of Python; each run is one call of the numba kernel
(loaders/kernel.py), without the lock, too. JPEGs go through scratch images that belong to the thread; of one with a restart index
(writers/jpeg/restart_index.py) only the part under the crop is decoded. Raw images are read where they lie in the file. The resize
averages exactly the area under each output pixel when it shrinks and is bilinear when it enlarges, each axis on its own.

Not numba's parallel loops: numba's thread pool must not be entered by two loaders at once with every threading layer, does not
survive a fork, and takes seconds more to compile.
"""

import ctypes
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from loaders import kernel, kernel_c
from loaders.augment import Crops
from loaders.reader import Samples
from writers.beton.encoding import DCT
from writers.errors import UserError

_RUNS_PER_THREAD = (
    4  # more: better balance between large and small images; fewer: less work between the runs
)


class BatchDecoder:
    """Fills batches from one beton with `num_threads` threads."""

    def __init__(
        self,
        samples: Samples,
        num_threads: int,
        library: Path,
        *,
        table: np.ndarray | None = None,
        conversion: np.ndarray | None = None,
        content: np.ndarray | None = None,
        scattered: bool = False,
    ) -> None:
        """`library`: a shared object that is linked to libturbojpeg, as FFCV's is. `table`, `conversion`: of
        loaders.normalize; None: levels.
        `content`: the bytes (uint8) that `samples.offsets` count in; None: the file's.

        scattered: read the images that `ask_for` names, all at once, and nothing beside them. The system's own way, to read on
        around what is touched, pays where the whole file stays in memory, and reads it many times over where it does not:
        measured once, two passes over every second image of a 0.63 GB file in a container of 0.9 GB read 19.8 GB, and 0.65 GB
        so (Linux 6, read-ahead of 8 MiB).
        """
        self._library = library
        self._pool: kernel_c.Pool | None = None
        self._threads: ThreadPoolExecutor | None = None
        if kernel.best_kernel() == "c":
            self._pool = kernel_c.Pool(num_threads)
        else:
            if (samples.modes == DCT).any():
                raise UserError(
                    f"{samples.path} has dct images, which only the C kernel decodes: {kernel.describe()}",
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
        self._file = content
        self._samples = samples
        self._table = np.empty((0, 256), np.float16) if table is None else table
        self._conversion = conversion
        self._num_threads = num_threads
        self._columns = kernel_c.file_columns(
            samples.offsets, samples.sizes, samples.modes, samples.widths, samples.heights
        )

    def decode(
        self, positions: np.ndarray, crops: Crops, output: np.ndarray
    ) -> dict[int, UserError]:
        """Fill `output` ([B, R, R, 3], or [B, k, R, R, 3] with k crops of each, uint8 or as the table) with the samples at
        `positions` (int64 [B]).

        Returns, by row, what is wrong with those that are no whole JPEG; their pixels mean nothing.
        """
        assert len(self._file), "the loader is closed"
        samples = self._samples
        complaints = np.zeros(len(positions), np.uint8)
        if self._pool is not None:
            self._pool.make_batch(
                self._file,
                positions,
                self._columns,
                crops.boxes,
                crops.flips,
                output,
                complaints,
                self._table,
                self._conversion,
            )
        else:
            num_crops = len(crops.flips) // max(1, len(positions))
            found = np.zeros(len(crops.flips), np.uint8)
            flat = output.reshape(-1, *output.shape[-3:])
            self._decode_in_runs(np.repeat(positions, num_crops), crops, flat, found)
            complaints = found.reshape(len(positions), -1).max(axis=1, initial=0)
        for row in np.flatnonzero(complaints == kernel_c.SHORT_OF_MEMORY).tolist():
            position = positions[row]
            error = kernel_c.no_memory(
                int(samples.widths[position]), int(samples.heights[position])
            )
            error.add_note(f"At sample {samples.indices[position]} of {samples.path}.")
            raise error
        return {
            row: samples.damaged(position, self._complaint(position))
            for row, position in zip(
                np.flatnonzero(complaints).tolist(),
                positions[complaints != 0].tolist(),
                strict=True,
            )
        }

    def _decode_in_runs(
        self, positions: np.ndarray, crops: Crops, output: np.ndarray, complaints: np.ndarray
    ) -> None:
        """`decode` by the numba kernel, which makes a run of images at a time on each of Python's threads."""
        samples = self._samples
        columns = (
            *(column[positions] for column in self._columns),
            crops.boxes,
            crops.flips,
            output,
            complaints,
        )

        def decode_run(run: slice) -> None:
            try:
                self._decode_images(self._file, *(column[run] for column in columns), self._table)
            except (
                Exception
            ) as error:  # such as no memory for a huge image: one by one, to find out which
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

    def ask_for(self, positions: np.ndarray) -> None:
        """Have the system read these images, in the order that suits the disk; it does so by itself unless `scattered`."""
        if self._map is None:
            return
        begins = self._samples.offsets[positions] // mmap.PAGESIZE * mmap.PAGESIZE
        ends = self._samples.offsets[positions] + self._samples.sizes[positions]
        for begin, length in zip(begins.tolist(), (ends - begins).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, begin, length)

    def _complaint(self, position: int) -> str:
        """What libjpeg-turbo says about a JPEG, of which the kernels only tell that it is damaged: the first thing it says."""
        if self._samples.modes[position] == DCT:
            return "its coefficients are damaged"
        begin, size = int(self._samples.offsets[position]), int(self._samples.sizes[position])
        wanted = int(self._samples.widths[position]), int(self._samples.heights[position])
        blob = self._file[begin : begin + size].tobytes()
        turbo = ctypes.CDLL(
            str(self._library)
        )  # a symbol of libturbojpeg is found through the library that is linked to it
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
                return turbo.tjGetErrorStr2(handle).decode()
            if (width.value, height.value) != wanted:
                return f"it has {width.value} x {height.value} pixels, and {wanted[0]} x {wanted[1]} in the beton's table"
            pixels = ctypes.create_string_buffer(3 * width.value * height.value)
            turbo.tjDecompress2(handle, blob, length, pixels, width, 0, height, 0, 0)
            return turbo.tjGetErrorStr2(handle).decode()
        finally:
            turbo.tjDestroy(handle)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        if self._pool is not None:
            self._pool.close()
        self._file, self._map = np.empty(0, np.uint8), None
