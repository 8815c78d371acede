"""Random erasing, MixUp and CutMix on uint8 images [N, H, W, 3]."""

import numpy as np
import torch
from torch import Tensor

from loaders.augmentations.color import divide
from loaders.augmentations.draws import Mixes, Rectangles
from loaders.pinned import to_device
from writers.random_streams import GAMMA

# Mean and standard deviation of red, green and blue in ImageNet, for levels in [0, 255].
MEAN = np.array([0.485, 0.456, 0.406]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255
# Mean and standard deviation of the sum of 8 uniform random bytes.
_BYTES_MEAN, _BYTES_STD = 1020, (8 * (256**2 - 1) / 12) ** 0.5


def boxes_to_erase(drawn: Rectangles, height: int, width: int) -> np.ndarray:
    """Return top, left, bottom and right of the rectangles, int64 [N, 4].

    The first try that is smaller than the image is used. If no try is, the box is empty.
    """
    areas = drawn.areas * (height * width)
    heights = np.rint(np.sqrt(areas * drawn.ratios)).astype(np.int64)
    widths = np.rint(np.sqrt(areas / drawn.ratios)).astype(np.int64)
    fits = (heights < height) & (widths < width)
    rows, first = np.arange(len(fits)), fits.argmax(axis=1)
    used = drawn.erased & fits[rows, first]
    box_heights = np.where(used, heights[rows, first], 0)
    box_widths = np.where(used, widths[rows, first], 0)
    top = np.floor(drawn.top * (height - box_heights + 1)).astype(np.int64)
    left = np.floor(drawn.left * (width - box_widths + 1)).astype(np.int64)
    return np.stack([top, left, top + box_heights, left + box_widths], axis=1)


def erase(images: Tensor, drawn: Rectangles, fill: str) -> Tensor:
    """Fill a rectangle of each image that has one to erase. fill: mean, color or noise."""
    height, width = images.shape[1:3]
    boxes = boxes_to_erase(drawn, height, width)
    rows = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    if not len(rows):
        return images
    places = to_device(rows, images.device)
    inside = _inside(boxes[rows], images)
    if fill == "noise":
        filling = _noise(drawn.keys[rows], height, width, images.device)
    else:
        normal = drawn.colors[rows] if fill == "color" else np.zeros((len(rows), 3))
        levels = np.rint(MEAN + STD * normal).clip(0, 255).astype(np.uint8)
        filling = to_device(levels, images.device)[:, None, None]
    images = images.clone()
    images[places] = torch.where(inside, filling, images[places])
    return images


def partners(batch: Tensor) -> Tensor:
    """Return the partner of each row of `batch`, [B, ...]: the row half a batch away, cyclically.

    Each of W ranks has every W-th row of a batch. If 2 W divides the batch size, a row and its
    partner are on the same rank, so the pairs are the same for every such W.
    """
    return batch.roll(-(len(batch) // 2), 0)


def mix(images: Tensor, others: Tensor, drawn: Mixes) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner.

    Args:
        images: uint8 [N, H, W, 3].
        others: partner of each image, uint8 [N, H, W, 3].
        drawn: random parameters of the mix.

    Returns:
        Mixed images, uint8 [N, H, W, 3], and the weight of the first image in each, float64 [N].
    """
    height, width = images.shape[1:3]
    boxes, fractions = _cutmix_boxes(drawn, height, width)
    own = to_device(fractions, images.device)
    first, second = own.float()[:, None, None, None], (1 - own).float()[:, None, None, None]
    blended = images.float().mul_(first).add_(others.float().mul_(second)).round_()
    is_cut = to_device(drawn.cuts, images.device)
    pasted = torch.where(_inside(boxes, images), others, images)
    return torch.where(is_cut[:, None, None, None], pasted, blended.to(torch.uint8)), own


def mix_labels(labels: Tensor, own: Tensor, num_classes: int) -> Tensor:
    """Return probabilities of classes, float32 [N, K].

    Args:
        labels: int64 [N].
        own: weight of each image's own label, float64 [N]; its partner's label has the rest.
        num_classes: K.
    """
    classes = torch.zeros((len(labels), num_classes), device=labels.device)
    classes.scatter_(1, labels[:, None], 1.0)
    return classes * own.float()[:, None] + partners(classes) * (1 - own).float()[:, None]


def _cutmix_boxes(drawn: Mixes, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes, int64 [N, 4], and the fraction of each image outside its box, float64 [N]."""
    side = np.sqrt(1 - drawn.own)
    box_height, box_width = (
        np.trunc(height * side).astype(np.int64),
        np.trunc(width * side).astype(np.int64),
    )
    y, x = (
        np.floor(drawn.top * height).astype(np.int64),
        np.floor(drawn.left * width).astype(np.int64),
    )
    boxes = np.stack(
        [
            (y - box_height // 2).clip(0, height),
            (x - box_width // 2).clip(0, width),
            (y + (box_height + 1) // 2).clip(0, height),
            (x + (box_width + 1) // 2).clip(0, width),
        ],
        axis=1,
    )
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return boxes, np.where(drawn.cuts, 1 - areas / (height * width), drawn.own)


def _inside(boxes: np.ndarray, images: Tensor) -> Tensor:
    """Return a mask of the pixels in the boxes, bool [N, H, W, 1]."""
    y = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    x = torch.arange(images.shape[2], device=images.device)[None, None, :, None]
    edges = to_device(boxes, images.device).unbind(1)
    top, left, bottom, right = (edge[:, None, None, None] for edge in edges)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _noise(keys: np.ndarray, height: int, width: int, device: torch.device) -> Tensor:
    """Return noise with ImageNet's mean and standard deviation, uint8 [N, H, W, 3].

    A value is the sum of the 8 bytes of a random word. Its distribution function differs from a
    normal one by at most 0.006. Unlike a logarithm or a cosine, the sum is equal on every device.
    The words equal those of `writers.random_streams`, computed in int64, which wraps around.
    """
    starts = to_device(keys.view(np.int64), device)
    steps = torch.arange(1, height * width * 3 + 1, device=device) * _signed(GAMMA)
    words = _mix(starts[:, None] + steps)
    low_bytes = 0x00FF00FF00FF00FF
    pairs = (words & low_bytes) + (_shift(words, 8) & low_bytes)
    sums = _shift(pairs * 0x0001000100010001, 48)
    normal = divide(sums.float() - _BYTES_MEAN, _BYTES_STD)
    mean, std = (to_device(values.astype(np.float32), device) for values in (MEAN, STD))
    levels: Tensor = normal.view(-1, height, width, 3).mul_(std).add_(mean)
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def _mix(words: Tensor) -> Tensor:
    """Apply splitmix64's output function to int64 words."""
    words = (words ^ _shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shift(words, 31)


def _shift(words: Tensor, count: int) -> Tensor:
    """Shift int64 words to the right and fill with zeros."""
    return (words >> count) & ((1 << (64 - count)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
