"""Slow, simple reference backend: numpy and Pillow, one image at a time, without threads.

It shares only the choice of samples (`loaders.reader`) with the fast backends. Random numbers are
Python integers, crops are chosen one sample at a time, Pillow decodes, and the resize multiplies by
a dense weight matrix. Tests require the other backends to give the same bytes.
"""

import io
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image

from loaders.backend import Batch, PlainEpoch, PlainLoader
from loaders.interpolation import Interpolation
from loaders.plan import LoaderPlan
from loaders.reader import Samples, open_samples, split_batches
from writers.beton.encoding import DCT, RAW
from writers.dct import reference as dct
from writers.errors import UserError

_MASK = 2**64 - 1

Box = tuple[int, int, int, int]  # left, top, width, height, in pixels


def open_loader(plan: LoaderPlan) -> "ReferenceLoader":
    """Open a loader. Raises UserError if the `.beton` file is missing or damaged."""
    return ReferenceLoader(plan, open_samples(plan))


class ReferenceLoader(PlainLoader):
    """Loader that computes every pixel in the simplest way."""

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> PlainEpoch:
        """Start an epoch; see `Loader.start`."""
        batches = split_batches(self.plan, order)
        return self.run(self._batches(batches, epoch, resolution), poison=self.plan.poison)

    def _batches(self, batches: list[np.ndarray], epoch: int, resolution: int) -> Iterator[Batch]:
        for positions in batches:
            images, kept = [], []
            for position in positions.tolist():
                try:
                    images.append(self._image(position, epoch, resolution))
                    kept.append(position)
                except UserError as error:
                    if self.plan.on_corrupt == "raise":
                        raise
                    self.skipped[int(self.samples.indices[position])] = error
                    if position == positions[-1] and not kept:
                        raise self.samples.all_corrupt_error(len(positions), error) from error
            pixels = torch.from_numpy(normalize(np.ascontiguousarray(np.stack(images)), self.plan))
            labels = torch.from_numpy(self.samples.labels[kept])
            pixels = pixels.to(self.plan.device).permute(0, 1, 4, 2, 3)  # [B, k, 3, R, R]
            yield (
                pixels if self.plan.crops_per_image > 1 else pixels[:, 0],
                labels.to(self.plan.device),
            )

    def _image(self, position: int, epoch: int, resolution: int) -> np.ndarray:
        """Return the crops of a sample, uint8 [k, R, R, 3]."""
        pixels, crops = decode_sample(self.samples, position), []
        height, width, _ = pixels.shape
        for view in range(self.plan.crops_per_image):
            sample = int(self.samples.ids[position])
            box, flip = choose_crop(self.plan, epoch, sample, width, height, view)
            left, top, box_width, box_height = box
            box_pixels = pixels[top : top + box_height, left : left + box_width]
            crop = resize(box_pixels, resolution, self.plan.interpolation)
            crops.append(crop[:, ::-1] if flip else crop)
        return np.stack(crops)


def decode_sample(samples: Samples, position: int) -> np.ndarray:
    """Decode a sample at its stored size, uint8 [H, W, 3]. Raises UserError if it is damaged."""
    with samples.path.open("rb") as file:
        file.seek(samples.offsets[position])
        blob = file.read(samples.sizes[position])
    shape = (samples.heights[position], samples.widths[position], 3)
    if samples.modes[position] == RAW:
        return np.frombuffer(blob, np.uint8).reshape(shape)
    try:
        if samples.modes[position] == DCT:
            pixels = dct.decode_rgb(blob)
        else:
            pixels = np.asarray(Image.open(io.BytesIO(blob), formats=["JPEG"]).convert("RGB"))
    except (OSError, ValueError) as error:
        raise samples.decode_error(position, str(error)) from error
    if pixels.shape != shape:
        raise samples.decode_error(
            position,
            f"it has {pixels.shape[1]} x {pixels.shape[0]} pixels, and {shape[1]} x {shape[0]} "
            "in the beton's table",
        )
    return pixels


def choose_crop(
    plan: LoaderPlan, epoch: int, sample: int, width: int, height: int, view: int = 0
) -> tuple[Box, bool]:
    """Return the box and the flip of one crop of a sample; `view` is the number of the crop.

    `loaders.crops` describes the use of each random word.
    """
    words = _words(plan.seed, epoch, sample, view)
    flip = plan.horizontal_flip and words[0] >= 2**63
    if plan.augment == "center_crop":
        side = max(1, round(min(width, height) * plan.center_fraction))
        return (round((width - side) / 2), round((height - side) / 2), side, side), flip

    uniform = [(word >> 11) / 2**53 for word in words]
    (smallest, largest), (low, high) = plan.crop_scale, plan.crop_ratio
    for attempt in range(10):
        area = width * height * (smallest + (largest - smallest) * uniform[1 + 2 * attempt])
        ratio = math.exp(
            math.log(low) + (math.log(high) - math.log(low)) * uniform[2 + 2 * attempt]
        )
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = (
                int(uniform[21] * (width - box_width + 1)),
                int(uniform[22] * (height - box_height + 1)),
            )
            return (left, top, box_width, box_height), flip
    box_width = max(1, round(height * high)) if width / height > high else width
    box_height = max(1, round(width / low)) if width / height < low else height
    return ((width - box_width) // 2, (height - box_height) // 2, box_width, box_height), flip


def resize(
    pixels: np.ndarray, resolution: int, interpolation: Interpolation = "area"
) -> np.ndarray:
    """Resize uint8 [H, W, 3] to uint8 [R, R, 3].

    `area` averages the area under each output pixel if an axis shrinks; it is bilinear if it grows.

    The arithmetic is in integers, with weights of 14 bits: rows are resized first, to units of
    1 / 128 level, then columns. `native/resize.c` is the definition.
    """
    weights = axis_weights if interpolation == "area" else partial(filter_weights, interpolation)
    down, across = weights(pixels.shape[0], resolution), weights(pixels.shape[1], resolution)
    rows = (np.einsum("xw,hwc->hxc", across, pixels.astype(np.int64), optimize=True) + 64) >> 7
    rows = rows.clip(0, 255 * 128)  # as Pillow clips between the two axes
    levels = (np.einsum("yh,hxc->yxc", down, rows, optimize=True) + 2**20) >> 21
    result_array: np.ndarray = levels.clip(0, 255).astype(np.uint8)
    return result_array


def exact_resize(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Resize by `area` with exact weights and without rounding: float64 [R, R, 3].

    The result of `resize` by `area` differs by at most one level.
    """
    down = exact_weights(pixels.shape[0], resolution)
    across = exact_weights(pixels.shape[1], resolution)
    result_array: np.ndarray = np.einsum(
        "yh,hwc,xw->yxc", down, pixels.astype(np.float64), across, optimize=True
    )
    return result_array


def normalize(pixels: np.ndarray, plan: LoaderPlan) -> np.ndarray:
    """Convert uint8 [..., 3] to the plan's dtype."""
    if plan.dtype == "uint8":
        return pixels
    result_array: np.ndarray = ((pixels / 255 - np.array(plan.mean)) / np.array(plan.std)).astype(
        np.float16
    )
    return result_array


def axis_weights(source: int, target: int) -> np.ndarray:
    """Return the integer weights of an axis, int64 [target, source]; rows sum to 16384.

    For each k, the sum of an output pixel's first k weights is the sum of its first k exact
    weights, rounded to the nearest integer (half up if the axis shrinks).
    """
    i, k = np.arange(target)[:, None], np.arange(source)[None, :]
    # The unit of length is 1 / target of a source pixel; an output pixel covers `source` units.
    if source > target:
        begin, whole = i * source, source
        covered = np.clip(np.minimum(begin + source, (k + 1) * target) - begin, 0, None)
        sums = (2 * 16384 * covered + whole) // (2 * whole)
    # The unit is 1 / (2 target) of a source pixel. The weight of the second pixel is rounded half
    # up, and the first pixel has the rest.
    else:
        center = np.clip((2 * i + 1) * source - target, 0, 2 * target * (source - 1))
        whole = 2 * target
        missing = np.clip(center - 2 * target * k, 0, whole)  # weight of the pixels after k
        sums = 16384 - (2 * 16384 * missing + whole) // (2 * whole)
    return np.diff(sums, axis=1, prepend=0)


def filter_weights(interpolation: Interpolation, source: int, target: int) -> np.ndarray:
    """Return the integer weights of Pillow's bilinear or bicubic filter, int64 [target, source].

    Rows sum to 16384. Sums of the first k weights are rounded half up.
    """
    unit = 2 * max(source, target)  # distance 1 of the filter, in 1 / (2 target) source pixels
    center = (2 * np.arange(target, dtype=np.int64)[:, None] + 1) * source
    distance = np.abs((2 * np.arange(source, dtype=np.int64)[None, :] + 1) * target - center)
    if interpolation == "bilinear":
        weights = np.maximum(unit - distance, 0)
    else:  # Keys (1981), equation 4, with a = -1/2; t is the distance in units of 1 / 2^14
        one = 2**14
        t = np.minimum((distance * one + unit // 2) // unit, 2 * one)
        near = ((3 * t - 5 * one) * t * t + 2 * one**3) >> 19
        far = ((5 * one - t) * t * t - 8 * one**2 * t + 4 * one**3) >> 19
        weights = np.where(t < one, near, far)
        weights[distance >= 2 * unit] = 0
    total = weights.sum(axis=1, keepdims=True)
    sums = (2 * 16384 * weights.cumsum(axis=1) + total) // (2 * total)
    return np.diff(sums, axis=1, prepend=0)


def exact_weights(source: int, target: int) -> np.ndarray:
    """Return the exact weights of an axis, float64 [target, source]; rows sum to 1."""
    if source > target:
        edges = np.arange(target + 1) * source / target  # of the output pixels, in source pixels
        begin, end = edges[:-1, None], edges[1:, None]
        pixel = np.arange(source)[None, :]
        overlap = np.clip(np.minimum(end, pixel + 1) - np.maximum(begin, pixel), 0, None)
        result_array: np.ndarray = overlap * target / source
        return result_array
    center = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)[:, None]
    result_array = np.clip(1 - np.abs(np.arange(source)[None, :] - center), 0, None)
    return result_array


def _words(seed: int, epoch: int, sample: int, view: int) -> list[int]:
    """Return the 23 random words of a crop, computed by splitmix64 as published.

    They equal the words of `writers.random_streams.random_words`.
    """
    key = _mix((_mix((seed + 0x9E3779B97F4A7C15) & _MASK) + epoch) & _MASK)
    stream = _mix((key + (sample + 1) * 0x9E3779B97F4A7C15) & _MASK)
    return [
        _mix((stream + (count + 1) * 0x9E3779B97F4A7C15) & _MASK)
        for count in range(23 * view, 23 * view + 23)
    ]


def _mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _MASK
    return word ^ (word >> 31)
