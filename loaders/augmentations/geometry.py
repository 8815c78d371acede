"""Apply affine maps to uint8 images [N, H, W, 3].

Coordinates are float64, and the float32 operations on pixels are not fused, so results depend
neither on the device nor on the number of images.
"""

import numpy as np
import torch
from torch import Tensor

# An affine map sends the point (x, y) of the result to the point (a x + b y + c, d x + e y + f) of
# the source. Points are in pixels from the top left corner; pixel centers are at 0.5, 1.5, ...
# The functions below compute maps, float64 [N, 6] in the order a b c d e f, from parameters,
# float64 [N].


def shear_x(factors: np.ndarray) -> np.ndarray:
    """Shift each row sideways by factor times its distance from the top."""
    return _maps(len(factors), b=factors)


def shear_y(factors: np.ndarray) -> np.ndarray:
    """Shift each column up or down by factor times its distance from the left side."""
    return _maps(len(factors), d=factors)


def translate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read x pixels further right and y further down."""
    return _maps(len(x), c=x, f=y)


def rotate(degrees: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rotate counterclockwise about the center."""
    angles = np.deg2rad(degrees)
    cos, sin = np.cos(angles), np.sin(angles)
    x, y = width / 2, height / 2
    return _maps(
        len(degrees), a=cos, b=-sin, c=x - cos * x + sin * y, d=sin, e=cos, f=y - sin * x - cos * y
    )


def _maps(count: int, **entries: np.ndarray) -> np.ndarray:
    maps = np.tile(np.array([1.0, 0, 0, 0, 1.0, 0]), (count, 1))
    for name, values in entries.items():
        maps[:, "abcdef".index(name)] = values
    return maps


def resample(images: Tensor, maps: Tensor, *, bilinear: bool, fill: int) -> Tensor:
    """Apply a map to each image.

    Args:
        images: uint8 [N, H, W, 3].
        maps: float64 [N, 6], as defined at the top of this module.
        bilinear: True interpolates bilinearly; False takes the nearest pixel.
        fill: value of all three colors outside the image.
    """
    _, height, width, _ = images.shape
    x = (torch.arange(width, dtype=torch.float64, device=images.device) + 0.5)[None, None, :]
    y = (torch.arange(height, dtype=torch.float64, device=images.device) + 0.5)[None, :, None]
    a, b, c, d, e, f = (entry[:, None, None] for entry in maps.unbind(1))
    source_x = (a * x + b * y) + (c - 0.5)
    source_y = (d * x + e * y) + (f - 0.5)
    if not bilinear:
        return _pixels(images, source_x.round_(), source_y.round_(), fill)
    left, top = source_x.floor(), source_y.floor()
    right_share, lower_share = (source_x - left).float(), (source_y - top).float()
    total = torch.zeros(images.shape, device=images.device)
    for step_y, share_y in ((0, 1 - lower_share), (1, lower_share)):
        for step_x, share_x in ((0, 1 - right_share), (1, right_share)):
            pixels = _pixels(images, left + step_x, top + step_y, fill)
            total += pixels * (share_y * share_x)[..., None]
    return total.round_().clamp_(0, 255).to(torch.uint8)


def _pixels(images: Tensor, x: Tensor, y: Tensor, fill: int) -> Tensor:
    """Return the pixels at whole coordinates x and y (float64 [N, H, W]), or `fill` outside."""
    count, height, width, _ = images.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    first = torch.arange(count, device=images.device)[:, None, None] * (height * width)
    places = first + (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).to(torch.int64)
    found = images.reshape(-1, 3)[places.view(-1)].view(images.shape)
    return torch.where(inside[..., None], found, fill)
