"""Change the colors of uint8 images [N, H, W, 3], with one parameter per image.

The operations return new images. They follow torchvision.transforms.v2 for uint8 images, which
truncates instead of rounding. Sums use integers, and float operations are not fused, so results
depend neither on the device nor on the number of images or threads.
"""

import torch
from torch import Tensor

RED, GREEN, BLUE = 0.2989, 0.587, 0.114


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image by its factor, float64 [N]."""
    return _truncated(images.float().mul_(_per_image(factors)))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its mean gray level."""
    sums = _gray(images).to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    means = divide(sums.double(), images.shape[1] * images.shape[2]).float()
    return _blend(images, means, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its gray version."""
    return _blend(images, _gray(images), factors)


def hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue of each image by a fraction of the color circle, in [-0.5, 0.5]."""
    pixels = divide(images.float(), 255)
    red, green, blue = pixels.unbind(-1)
    highest, lowest = pixels.amax(-1), pixels.amin(-1)
    chroma = highest - lowest
    divisor = torch.where(chroma == 0, 1.0, chroma)
    r, g, b = ((highest - channel) / divisor for channel in (red, green, blue))
    is_red, is_green = highest == red, (highest == green) & (highest != red)
    sextant = torch.where(is_red, b - g, torch.where(is_green, r - b + 2, g - r + 4))
    angle = torch.remainder(divide(sextant, 6) + 1, 1) + shifts.float()[:, None, None]
    angle = torch.remainder(angle, 1) * 6
    share = chroma / torch.where(highest == 0, 1.0, highest)  # saturation
    depth = highest * share
    shifted = []
    for start in (5, 3, 1):  # positions of red, green and blue on the color circle, in sextants
        place = torch.remainder(angle + start, 6)
        ramp = torch.minimum(place, 4 - place).clamp_(0, 1)
        shifted.append(highest - depth * ramp)
    # With this factor, truncation maps equally wide intervals of [0, 1] to each level.
    return torch.stack(shifted, dim=-1).mul_(256 - 1e-3).clamp_(0, 255).to(torch.uint8)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its 3x3 blur; border pixels stay unchanged."""
    if min(images.shape[1:3]) <= 2:
        return images.clone()
    wide = images.to(torch.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    blurred = images.float()
    blurred[:, 1:-1, 1:-1] = divide(sums.float(), 13).round_()
    return _blend(images, blurred, factors)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the `bits` highest bits of each value, 0 to 8 per image."""
    dropped = 2 ** (8 - bits.to(torch.int64))
    return images & (256 - dropped).to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert values that are at least the image's threshold, 0 to 256."""
    limits = thresholds.to(torch.int32)[:, None, None, None]
    return torch.where(images >= limits, 255 - images, images)


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    """Add a number per image to its values below 128, and clip the sums to [0, 255]."""
    more = images.to(torch.int16) + added.to(torch.int16)[:, None, None, None]
    return torch.where(images < 128, more.clamp_(0, 255).to(torch.uint8), images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Invert all values."""
    return 255 - images


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each color channel to 0 ... 255. A constant channel is kept."""
    lowest = images.amin(dim=(1, 2), keepdim=True)
    span = images.amax(dim=(1, 2), keepdim=True) - lowest
    scale = torch.where(span == 0, 1.0, span.float() * (1.0 / 255))
    lowest = torch.where(span == 0, torch.zeros_like(lowest), lowest)
    return _truncated((images - lowest).float().div_(scale))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalize the histogram of each color channel, as Pillow does."""
    num_images, height, width = images.shape[:3]
    levels = images.permute(0, 3, 1, 2).reshape(num_images * 3, -1).to(torch.int64)
    counts = torch.zeros((len(levels), 256), dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    sums = counts.cumsum(1)
    highest = sums.argmax(1, keepdim=True)  # highest level that occurs: its sum is the first full
    step = (height * width - counts.gather(1, highest)) // 255
    table = ((sums + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.cat([torch.zeros_like(table[:, :1]), table[:, :-1]], dim=1)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    equal = table.gather(1, levels).to(torch.uint8)
    return equal.view(num_images, 3, height, width).permute(0, 2, 3, 1).contiguous()


def add_color(images: Tensor, colors: Tensor) -> Tensor:
    """Add colors, float64 [N, 3] for pixels in [0, 1]; the sum is rounded and clipped."""
    levels = (colors * 255).float()[:, None, None, :]
    return (images.float() + levels).round_().clamp_(0, 255).to(torch.uint8)


def divide(values: Tensor, divisor: float) -> Tensor:
    """Return the quotients, rounded once, on every device.

    If the divisor is a Python number, torch multiplies by its reciprocal on a GPU, and so rounds
    twice.
    """
    return values / values.new_full((), divisor)


def _gray(images: Tensor) -> Tensor:
    """Return gray levels, rounded down to whole numbers, float32 [N, H, W, 1]."""
    red, green, blue = images.float().unbind(-1)
    return (red * RED + green * GREEN + blue * BLUE).floor_()[..., None]


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """Return other + factor * (image - other), truncated; this form is exact for equal pixels."""
    return _truncated((images.float() - others).mul_(_per_image(factors)).add_(others))


def _per_image(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]


def _truncated(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)
