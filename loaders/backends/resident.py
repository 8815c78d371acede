"""The whole beton decoded once and kept on the device as uint8; crops, resizes and flips there, a batch at a time.

For sets that fit: the downstream datasets, CIFAR. The same boxes and the same filters as the other backends, as two products
of matrices: each output pixel is a weighted mean of the rows, then of the columns, under it. Pixels differ from the other
backends' by at most 1 of 255, by rounding. Images of different sizes are packed one behind the other; a batch gathers the
part under its boxes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from loaders.augment import Crops, choose_crops
from loaders.backend import Batch, Loader, PlainEpoch
from loaders.decode import BatchDecoder
from loaders.ffcv_parts import LIBRARY
from loaders.plan import LoaderPlan
from loaders.preflight import free_memory_bytes
from loaders.reader import Samples, decoded_bytes, open_samples
from writers.errors import UserError

_GATHERED_BYTES = 2**28     # of float32 pixels under the boxes of a run of images; bounds the memory of a batch


def open_loader(plan: LoaderPlan) -> "ResidentLoader":
    return ResidentLoader(plan, open_samples(plan))


class ResidentLoader(Loader):
    """Opening it decodes every image. Raises UserError, naming the sample, for one that does not decode."""

    _running: PlainEpoch | None = None

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        super().__init__(plan, samples)
        if plan.on_corrupt != "raise":
            raise UserError("The resident backend decodes every image before it begins; it skips none.",
                            "Use backend: ffcv with on_corrupt: skip.")
        num_bytes = decoded_bytes(samples)
        if plan.device == "cpu" and num_bytes > free_memory_bytes():
            raise UserError(f"{plan.beton} is {num_bytes / 1e9:.1f} GB once decoded, more than there is free memory.",
                            "Use backend: ffcv.")
        self._starts = np.concatenate([[0], np.cumsum(3 * samples.widths * samples.heights)])
        self._pixels = _decode_all(plan, samples, self._starts).to(plan.device)

    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> PlainEpoch:
        self._end_running()
        self._running = PlainEpoch(self._batches(epoch, resolution or self.plan.resolution, start_batch))
        return self._running

    def close(self) -> None:
        self._end_running()
        self._pixels = torch.empty(0, dtype=torch.uint8)

    def _end_running(self) -> None:
        if self._running is not None:
            self._running.close()

    def _batches(self, epoch: int, resolution: int, start_batch: int) -> Iterator[Batch]:
        samples, device = self.samples, self.plan.device
        for positions in samples.batches(self.plan, epoch, start_batch):
            crops = choose_crops(self.plan, epoch, samples.ids[positions], samples.widths[positions],
                                 samples.heights[positions])
            images = torch.empty((len(positions), resolution, resolution, 3), dtype=torch.uint8, device=device)
            for run in _runs(crops.boxes):
                images[run] = self._resized(positions[run], Crops(crops.boxes[run], crops.flips[run]), resolution)
            yield images.permute(0, 3, 1, 2), torch.from_numpy(samples.labels[positions]).to(device)

    def _resized(self, positions: np.ndarray, crops: Crops, resolution: int) -> Tensor:
        """uint8 [n, R, R, 3]."""
        device = self._pixels.device
        left, top, width, height = (torch.from_numpy(column).to(device) for column in crops.boxes.T.copy())
        most_rows, most_columns = int(crops.boxes[:, 3].max()), int(crops.boxes[:, 2].max())
        # Boxes are gathered at the size of the largest; what lies outside of a smaller one has no weight.
        rows = (top[:, None] + torch.arange(most_rows, device=device)).minimum((top + height - 1)[:, None])
        columns = (left[:, None] + torch.arange(most_columns, device=device)).minimum((left + width - 1)[:, None])
        starts = torch.from_numpy(self._starts[positions]).to(device)
        stride = torch.from_numpy(3 * self.samples.widths[positions]).to(device)
        first = starts[:, None, None] + rows[:, :, None] * stride[:, None, None] + 3 * columns[:, None, :]
        pixels = self._pixels[first[..., None] + torch.arange(3, device=device)].float()        # [n, h, w, 3]
        across = axis_weights(width, most_columns, resolution)
        across = torch.where(torch.from_numpy(crops.flips.copy()).to(device)[:, None, None], across.flip(1), across)
        down = axis_weights(height, most_rows, resolution)
        narrow = torch.einsum("nxw,nhwc->nhxc", across, pixels)
        return (torch.einsum("nyh,nhxc->nyxc", down, narrow) + 0.5).clamp_(0, 255).to(torch.uint8)


def axis_weights(source: Tensor, most: int, target: int) -> Tensor:
    """float32 [n, target, most]: each output pixel's shares in `source` [n] pixels, as `reference.axis_weights` has them."""
    source_ = source.double()[:, None, None]
    output = torch.arange(target, dtype=torch.float64, device=source.device)[None, :, None]
    pixel = torch.arange(most, dtype=torch.float64, device=source.device)[None, None, :]
    begin, end = output * source_ / target, (output + 1) * source_ / target
    area = (torch.minimum(end, pixel + 1) - torch.maximum(begin, pixel)).clamp(min=0) * target / source_
    center = torch.minimum(((output + 0.5) * source_ / target - 0.5).clamp(min=0), source_ - 1)
    linear = (1 - (pixel - center).abs()).clamp(min=0) * (pixel < source_)
    return torch.where(source_ > target, area * (pixel < source_), linear).float()


def _decode_all(plan: LoaderPlan, samples: Samples, starts: np.ndarray) -> Tensor:
    """Every image whole, one behind the other: uint8 [bytes]. """
    pixels = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=plan.device != "cpu")
    target = pixels.numpy()
    decoder = BatchDecoder(samples, 1, LIBRARY)

    def decode(position: int) -> None:
        shape = int(samples.heights[position]), int(samples.widths[position]), 3
        _decode_whole(decoder, position, target[starts[position]:starts[position + 1]].reshape(shape))

    try:
        with ThreadPoolExecutor(plan.num_threads) as threads:
            list(threads.map(decode, range(len(samples))))
    finally:
        decoder.close()
    return pixels


def _decode_whole(decoder: BatchDecoder, position: int, target: np.ndarray) -> None:
    """One image at its own size. The kernels make squares: a square box of each part, not resized, tiles the image."""
    height, width, _ = target.shape
    side = min(width, height)
    for start in range(0, max(width, height), side):
        start = min(start, max(width, height) - side)
        left, top = (start, 0) if width > height else (0, start)
        square = np.empty((1, side, side, 3), np.uint8)
        crops = Crops(np.array([[left, top, side, side]], np.int64), np.zeros(1, bool))
        if damaged := decoder.decode(np.array([position]), crops, square):
            raise damaged[0]
        target[top:top + side, left:left + side] = square[0]


def _runs(boxes: np.ndarray) -> Iterator[slice]:
    """Runs of images whose gathered boxes fit into _GATHERED_BYTES; at least one image each."""
    start = 0
    while start < len(boxes):
        end, width, height = start, 0, 0
        while end < len(boxes):
            width, height = max(width, int(boxes[end, 2])), max(height, int(boxes[end, 3]))
            if end > start and 12 * width * height * (end + 1 - start) > _GATHERED_BYTES:
                break
            end += 1
        yield slice(start, end)
        start = end
