"""Decode a whole `.beton` file once to uint8 on the device; crop, resize and flip there per batch.

This backend is for sets that fit into memory, such as the downstream datasets and CIFAR. It uses
the same boxes and integer sums as the kernels of the ffcv backend (loaders/native/resize.c), so
pixels are bit-equal for any batch size. Images of different sizes are packed contiguously; a batch
gathers the pixels under its boxes. Once the loader is open, nothing here waits for the GPU. On a
CPU, the decoding kernel also resizes, many times faster than torch's gather.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from loaders.backend import Batch, PlainEpoch, PlainLoader, check_single_crop
from loaders.crops import Crops, choose_crops
from loaders.decode import BatchDecoder
from loaders.ffcv_parts import LIBRARY
from loaders.interpolation import Interpolation, number_of
from loaders.normalize import look_up, lookup_table
from loaders.pinned import to_device
from loaders.plan import LoaderPlan
from loaders.preflight import free_memory_bytes
from loaders.reader import Samples, decoded_bytes, open_samples, split_batches
from writers.beton.encoding import RAW
from writers.errors import UserError

# Largest number of pixels of a run of images that are resized together: number of images times R
# times the height of the highest box. The temporary memory is at most 40 bytes per pixel.
_RUN_PIXELS = 2**24
# Sum of the weights, and the bits that each axis drops, as in loaders/native/stages.h.
_ONE, _ROUND_ACROSS, _ROUND_DOWN = 2**14, 7, 21
_STAGED_BYTES = 2**26  # bytes that are decoded before each copy to the device


def open_loader(plan: LoaderPlan) -> "ResidentLoader":
    """Open a loader and decode all images; raises UserError as `ResidentLoader` does."""
    check_single_crop(plan)
    return ResidentLoader(plan, open_samples(plan))


class ResidentLoader(PlainLoader):
    """Loader that decodes all images when it is opened.

    Raises:
        UserError: an image does not decode (unless on_corrupt is "skip"), or the decoded images do
            not fit into memory.
    """

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        super().__init__(plan, samples)
        self._device = torch.device(plan.device)
        num_bytes, free = decoded_bytes(samples), _free_bytes(self._device)
        if num_bytes > free:
            raise UserError(
                f"{plan.beton} takes {num_bytes / 1e9:.1f} GB once it is decoded; {plan.device} "
                "has "
                f"{free / 1e9:.1f} GB free.",
                "Use backend: ffcv.",
            )
        ends = np.cumsum(samples.widths * samples.heights)
        self._first_pixels = np.concatenate([[0], ends[:-1]])
        self._pixels = torch.empty((int(ends[-1]), 3), dtype=torch.uint8, device=self._device)
        self._labels = torch.from_numpy(samples.labels).to(self._device)
        table = lookup_table(plan)
        self._table = torch.from_numpy(table).to(self._device)
        damaged = self._decode_all()
        if damaged and plan.on_corrupt == "raise":
            raise next(iter(damaged.values()))
        self._damaged = damaged  # position -> error
        self._kernel: BatchDecoder | None = None
        if self._device.type == "cpu":
            decoded = replace(
                samples,
                modes=np.full(samples.num_rows, RAW, np.uint8),
                offsets=3 * self._first_pixels,
                sizes=3 * samples.widths * samples.heights,
            )
            self._kernel = BatchDecoder(
                decoded,
                plan.num_threads,
                LIBRARY,
                table=table,
                interpolation=plan.interpolation,
                content=self._pixels.numpy().reshape(-1),
            )
        self.skipped.update(
            {int(samples.indices[position]): error for position, error in damaged.items()}
        )

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> PlainEpoch:
        """Start an epoch; see `Loader.start`."""
        if not len(self._pixels):
            raise RuntimeError("This loader is closed.")
        batches = split_batches(self.plan, order)
        return self.run(self._batches(batches, epoch, resolution), poison=self.plan.poison)

    def close(self) -> None:
        """Release all resources; see `Loader.close`."""
        super().close()
        self._pixels = self._pixels.new_empty((0, 3))
        if self._kernel is not None:
            self._kernel.close()

    def _batches(self, batches: list[np.ndarray], epoch: int, resolution: int) -> Iterator[Batch]:
        samples, damaged = self.samples, np.array(list(self._damaged), np.int64)
        for whole in batches:
            positions = whole[~np.isin(whole, damaged)]
            if not len(positions):
                raise samples.all_corrupt_error(len(whole), self._damaged[int(whole[-1])])
            crops = choose_crops(
                self.plan,
                epoch,
                samples.ids[positions],
                samples.widths[positions],
                samples.heights[positions],
            )
            images = torch.empty(
                (len(positions), resolution, resolution, 3),
                dtype=getattr(torch, self.plan.dtype),
                device=self._device,
            )
            if self._kernel is not None:
                self._kernel.decode(positions, crops, images.numpy())
                labels = self._labels[torch.from_numpy(positions)]
            else:
                labels = self._fill(images, positions, crops)
            yield images.permute(0, 3, 1, 2), labels

    def _fill(self, images: Tensor, positions: np.ndarray, crops: Crops) -> Tensor:
        """Fill `images` [B, R, R, 3] on the device and return their labels."""
        columns = [
            positions,
            self._first_pixels[positions],
            self.samples.widths[positions],
            crops.boxes,
            crops.flips,
        ]
        table = to_device(np.column_stack(columns), self._device)
        for run, width, height in _runs(crops.boxes, images.shape[1]):
            levels = resize_boxes(
                self._pixels,
                table[run, 1:],
                (width, height),
                images.shape[1],
                self.plan.interpolation,
            )
            images[run] = look_up(self._table, levels)
        return self._labels[table[:, 0]]

    def _decode_all(self) -> dict[int, UserError]:
        """Fill `_pixels`; return position -> error for images that do not decode."""
        samples, first_pixels = self.samples, self._first_pixels
        sizes = samples.widths * samples.heights
        runs = first_pixels * 3 // _STAGED_BYTES  # number of each image's run, of about this size
        decoder, damaged = BatchDecoder(samples, 1, LIBRARY), {}
        with ThreadPoolExecutor(self.plan.num_threads) as threads:
            for run in np.split(np.arange(samples.num_rows), np.flatnonzero(np.diff(runs)) + 1):
                begin, end = int(first_pixels[run[0]]), int(first_pixels[run[-1]] + sizes[run[-1]])
                staged = torch.empty((end - begin, 3), dtype=torch.uint8)
                targets = np.split(staged.numpy(), first_pixels[run[1:]] - begin)
                errors = threads.map(
                    decode_whole,
                    [decoder] * len(run),
                    run.tolist(),
                    targets,
                    samples.widths[run].tolist(),
                )
                damaged.update(
                    {
                        int(position): error
                        for position, error in zip(run, errors, strict=True)
                        if error
                    }
                )
                self._pixels[begin:end].copy_(staged)
        decoder.close()
        return damaged


def resize_boxes(
    pixels: Tensor,
    boxes: Tensor,
    most: tuple[int, int],
    resolution: int,
    interpolation: Interpolation = "area",
) -> Tensor:
    """Resize boxes of n images to uint8 [n, R, R, 3].

    Args:
        pixels: pixels of all images, uint8 [pixels, 3].
        boxes: int64 [n, 7]: first pixel and width of the image; left, top, width and height of the
            box; 1 to mirror it, otherwise 0.
        most: width of the widest box and height of the highest box. The caller passes them, because
            reading them from the device would wait for the GPU.
        resolution: R.
        interpolation: filter of the resize.
    """
    (most_width, most_height), (first_pixels, strides, left, top, width, height, flips) = (
        most,
        boxes.unbind(1),
    )
    starts, weights = taps(width, resolution, most_width, interpolation)
    mirrored = flips[:, None] != 0
    starts = torch.where(mirrored, starts.flip(1), starts)
    weights = torch.where(mirrored[:, :, None], weights.flip(1), weights)
    rows = torch.arange(most_height, device=pixels.device).minimum(height[:, None] - 1)  # [n, h]
    corner = first_pixels[:, None] + (top[:, None] + rows) * strides[:, None] + left[:, None]
    lines = torch.full((), 2 ** (_ROUND_ACROSS - 1), dtype=torch.int32, device=pixels.device)
    for k in range(weights.shape[2]):
        columns = (starts + k).minimum(width[:, None] - 1)
        under = pixels[corner[:, :, None] + columns[:, None, :]]  # [n, h, R, 3]
        lines = lines + weights[:, None, :, k, None] * under
    lines = (lines >> _ROUND_ACROSS).clamp(0, 255 * 128)

    starts, weights = taps(height, resolution, most_height, interpolation)
    result = torch.full((), 2 ** (_ROUND_DOWN - 1), dtype=torch.int32, device=pixels.device)
    for k in range(weights.shape[2]):
        down = (
            (starts + k)
            .minimum(height[:, None] - 1)[:, :, None, None]
            .expand(-1, -1, resolution, 3)
        )
        result = result + weights[:, :, k, None, None] * lines.gather(1, down)
    return (result >> _ROUND_DOWN).clamp(0, 255).to(torch.uint8)


def taps(
    sources: Tensor, target: int, most: int, interpolation: Interpolation = "area"
) -> tuple[Tensor, Tensor]:
    """Return first source pixel and weights of each output pixel, for n axes.

    The values equal those of fill_weights in loaders/native/weights.c.

    Args:
        sources: int64 [n], source pixels of each axis, at most `most`.
        target: output pixels.
        most: upper bound of sources.
        interpolation: filter of the resize.

    Returns:
        First source pixel, int64 [n, target], and the weights of k source pixels from this one on,
        int32 [n, target, k]. The weights are zero-padded and sum to 2^14.
    """
    if interpolation != "area":
        return _filter_taps(sources, target, most, interpolation)
    source, place = sources[:, None], torch.arange(target, device=sources.device)
    offset = torch.arange(max(2, most // target + 2 if most > target else 2), device=sources.device)
    begin = place * source
    shrinking_starts = begin // target
    pixel = shrinking_starts[:, :, None] + offset
    covered = ((begin + source)[:, :, None].minimum((pixel + 1) * target)) - begin[:, :, None]
    shrinking = (covered * _ONE + source[:, :, None] // 2) // source[:, :, None]  # sums of weights

    center = (2 * place + 1) * source - target  # in units of 1 / (2 target)
    center = center.clamp(min=0).minimum(2 * target * (source - 1))
    enlarging_starts = (center // (2 * target)).minimum((source - 2).clamp(min=0))
    rest = center - enlarging_starts * 2 * target
    second = (rest * _ONE + target) // (2 * target)
    enlarging = torch.where(offset == 0, _ONE - second[:, :, None], _ONE)

    shrinks = source > target
    sums = torch.where(shrinks[:, :, None], shrinking, enlarging)
    weights = sums.diff(dim=2, prepend=torch.zeros_like(sums[:, :, :1]))
    return torch.where(shrinks, shrinking_starts, enlarging_starts), weights.int()


def _filter_taps(
    sources: Tensor, target: int, most: int, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """Compute `taps` for bilinear and bicubic, as fill_filter in loaders/native/weights.c does."""
    support = number_of(interpolation)  # distance from which on weights are 0: 1 or 2
    source, place = sources[:, None], torch.arange(target, device=sources.device)
    unit, center = 2 * source.clamp(min=target), (2 * place + 1) * source
    starts = ((center - support * unit - target).div(2 * target, rounding_mode="floor") + 1).clamp(
        min=0
    )
    num_taps = 2 * support * max(most, target) // target + 1
    pixel = starts[:, :, None] + torch.arange(num_taps, device=sources.device)
    unit = unit[:, :, None]
    distance = ((2 * pixel + 1) * target - center[:, :, None]).abs()
    if interpolation == "bilinear":
        weights = (unit - distance).clamp(min=0)
    else:
        one = 2**14
        t = ((distance * one + unit // 2) // unit).clamp(max=2 * one)
        near = ((3 * t - 5 * one) * t * t + 2 * one**3) >> 19
        far = ((5 * one - t) * t * t - 8 * one**2 * t + 4 * one**3) >> 19
        weights = torch.where(t < one, near, far)
    is_under = (pixel < source[:, :, None]) & (distance < support * unit)
    weights = torch.where(is_under, weights, 0)
    total = weights.sum(dim=2, keepdim=True)
    sums = (2 * _ONE * weights.cumsum(dim=2) + total).div(2 * total, rounding_mode="floor")
    return starts, sums.diff(dim=2, prepend=torch.zeros_like(sums[:, :, :1])).int()


def decode_whole(
    decoder: BatchDecoder, position: int, target: np.ndarray, width: int
) -> UserError | None:
    """Decode one image at its own size into `target`, uint8 [pixels, 3].

    Returns the error if the image does not decode, else None. The decoder makes square crops, so
    the image, `width` pixels wide, is covered with square boxes that keep their size.
    """
    image = target.reshape(-1, width, 3)
    height = len(image)
    side = min(width, height)
    square = np.empty((1, side, side, 3), np.uint8)
    for start in range(0, max(width, height), side):
        start = min(start, max(width, height) - side)
        left, top = (start, 0) if width > height else (0, start)
        crops = Crops(np.array([[left, top, side, side]], np.int64), np.zeros(1, bool))
        if damaged := decoder.decode(np.array([position]), crops, square):
            return damaged[0]
        image[top : top + side, left : left + side] = square[0]
    return None


def _runs(boxes: np.ndarray, resolution: int) -> Iterator[tuple[slice, int, int]]:
    """Yield runs of boxes that fit into _RUN_PIXELS, with the largest width and height of each run.

    `boxes` (left, top, width, height) is int64 [B, 4]. A run has at least one box.
    """
    start = 0
    while start < len(boxes):
        highest = np.maximum.accumulate(boxes[start:, 3])
        pixels = highest * resolution * np.arange(1, len(highest) + 1)
        end = start + max(1, int(np.searchsorted(pixels, _RUN_PIXELS, side="right")))
        yield slice(start, end), int(boxes[start:end, 2].max()), int(highest[end - start - 1])
        start = end


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
