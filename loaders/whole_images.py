"""Decode whole images at their stored sizes, as color planes, into buffers that are reused.

The C kernel decodes a batch on its own threads without the GIL. If it was not built, Pillow decodes
the same pixels on Python threads, more slowly, and dct images very slowly
(`loaders/backends/reference.py`).
"""

import mmap
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Literal

import numpy as np
import torch

from loaders import kernel_c
from loaders.backends.reference import decode_sample
from loaders.reader import Samples

KEPT_BUFFERS = 4  # free buffers that are kept: two batches ahead, one in use, one being decoded


class _Buffers:
    """Buffers of batches. A buffer is used again after all tensors of its batch are gone.

    New memory would cost a page fault per 4 KiB, about half as much time as decoding a dct image.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=KEPT_BUFFERS)

    def take(self, size: int) -> torch.Tensor:
        """Return a tensor uint8 [size] with undefined content."""
        try:
            buffer = self._free.popleft()  # thread-safe, as is `append`
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < size:
            buffer = np.empty(size + size // 4, np.uint8)  # more than now needed: sizes vary
        lease = buffer[:size]
        # The tensor and its views keep `lease` alive. After the last of them, the buffer is free.
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return torch.from_numpy(lease)


class WholeImageDecoder:
    """Decode batches of whole images of one `.beton` file."""

    def __init__(
        self, samples: Samples, num_threads: int, kernel: Literal["c", "pillow"] | None = None
    ) -> None:
        """Map the file and start the threads.

        Args:
            samples: columns of the samples.
            num_threads: decoding threads.
            kernel: None means C if it was built, otherwise Pillow. Both give the same pixels.
        """
        self._samples = samples
        self._buffers = _Buffers()
        self._lock = Lock()  # a pool must not be freed while it is in use
        self._pool: kernel_c.Pool | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._images: kernel_c.StoredImages | None = None
        if kernel is None:
            kernel = "pillow" if kernel_c.library() is None else "c"
        if kernel == "pillow":
            self._threads = ThreadPoolExecutor(num_threads, "harness-decode")
            return
        self._pool = kernel_c.Pool(num_threads)
        with samples.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._images = kernel_c.stored_images(
            np.frombuffer(mapped, np.uint8),
            samples.offsets,
            samples.sizes,
            samples.modes,
            samples.widths,
            samples.heights,
        )

    def decode(self, positions: np.ndarray, flips: np.ndarray) -> list[torch.Tensor]:
        """Decode a batch.

        Args:
            positions: int64 [B], rows of the images in the columns of samples.
            flips: bool [B], True mirrors the image horizontally.

        Returns:
            uint8 [3, H, W] of each image, contiguous parts of one buffer. The buffer is not written
            again while one of these tensors exists.

        Raises:
            UserError: an image is damaged.
            RuntimeError: the decoder is closed.
            MemoryError: an image is too large to decode; a note names the sample.
        """
        samples = self._samples
        widths, heights = samples.widths[positions], samples.heights[positions]
        sizes = 3 * widths * heights
        starts = np.cumsum(sizes) - sizes
        buffer = self._buffers.take(int(sizes.sum()))
        images = [
            planes.view(3, height, width)
            for planes, height, width in zip(
                buffer.split(sizes.tolist()), heights.tolist(), widths.tolist(), strict=True
            )
        ]
        with self._lock:
            if self._pool is not None:
                self._decode_by_c(positions, flips, starts, buffer.numpy())
            elif self._threads is not None:
                self._decode_by_pillow(positions, flips, images)
            else:
                raise RuntimeError("This loader is closed.")
        return images

    def _decode_by_c(
        self, positions: np.ndarray, flips: np.ndarray, starts: np.ndarray, output: np.ndarray
    ) -> None:
        assert self._pool is not None and self._images is not None
        samples, error_codes = self._samples, np.zeros(len(positions), np.uint8)
        self._pool.decode_whole(self._images, positions, flips, starts, output, error_codes)
        for row in np.flatnonzero(error_codes).tolist():
            position = int(positions[row])
            if error_codes[row] == kernel_c.OUT_OF_MEMORY:
                raise samples.memory_error(position)
            decode_sample(samples, position)  # raises with the decoder's message
            raise samples.decode_error(position, "its coded data is damaged")

    def _decode_by_pillow(
        self, positions: np.ndarray, flips: np.ndarray, images: list[torch.Tensor]
    ) -> None:
        assert self._threads is not None

        def decode(position: int, is_flipped: bool, image: torch.Tensor) -> None:
            pixels = decode_sample(self._samples, position)
            mirrored = pixels[:, ::-1] if is_flipped else pixels
            image.numpy()[...] = mirrored.transpose(2, 0, 1)

        list(self._threads.map(decode, positions.tolist(), flips.tolist(), images))

    def close(self) -> None:
        """Stop the threads and release the file. May be called more than once."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown(cancel_futures=True)
            if self._pool is not None:
                self._pool.close()
            self._threads = self._pool = self._images = None
