"""RandAugment (Cubuk et al. 2020), with the operations of torchvision or of timm."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from loaders.augmentations import color, geometry
from loaders.augmentations.draws import RandOps
from loaders.augmentations.settings import TORCHVISION_MAX_MAGNITUDE, RandAugment
from loaders.pinned import to_device

TORCHVISION_OPS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness",
    "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
TIMM_OPS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y",
)  # fmt: skip
TIMM_FILL = 128

ColorOp = Callable[[Tensor, Tensor], Tensor]
_COLOR_OPS: dict[str, ColorOp] = {
    "brightness": color.brightness,
    "color": color.saturation,
    "contrast": color.contrast,
    "sharpness": color.sharpness,
    "posterize": color.posterize,
    "solarize": color.solarize,
    "solarize_add": color.solarize_add,
    "autocontrast": color.autocontrast,
    "equalize": color.equalize,
    "invert": color.invert,
}


def ops_of(settings: RandAugment) -> tuple[str, ...]:
    """Return the names of the operations to choose from."""
    return TIMM_OPS if settings.ops == "timm" else TORCHVISION_OPS


def apply(images: Tensor, settings: RandAugment, drawn: RandOps) -> Tensor:
    """Return augmented images. images: uint8 [N, H, W, 3]."""
    names, images = ops_of(settings), images.clone()
    for layer in range(settings.num_ops):
        for number, name in enumerate(names):
            rows = np.flatnonzero(drawn.ops[:, layer] == number)
            if name == "identity" or not len(rows):
                continue
            places = to_device(rows, images.device)
            images[places] = apply_op(
                images[places],
                settings,
                name,
                drawn.magnitudes[rows, layer],
                drawn.signs[rows, layer],
            )
    return images


def apply_op(
    images: Tensor, settings: RandAugment, name: str, magnitudes: np.ndarray, signs: np.ndarray
) -> Tensor:
    """Apply one operation. magnitudes and signs: float64 [N]."""
    height, width = images.shape[1:3]
    parameters = (_timm if settings.ops == "timm" else _torchvision)(
        name, magnitudes, signs, height, width
    )
    if name in _COLOR_OPS:
        return _COLOR_OPS[name](images, to_device(parameters, images.device))
    zeros = np.zeros(len(magnitudes))
    maps = {
        "shear_x": lambda: geometry.shear_x(parameters),
        "shear_y": lambda: geometry.shear_y(parameters),
        "translate_x": lambda: geometry.translate(parameters, zeros),
        "translate_y": lambda: geometry.translate(zeros, parameters),
        "rotate": lambda: geometry.rotate(parameters, height, width),
    }[name]()
    is_timm = settings.ops == "timm"
    return geometry.resample(
        images,
        to_device(maps, images.device),
        bilinear=is_timm,
        fill=TIMM_FILL if is_timm else 0,
    )


def _torchvision(
    name: str, magnitudes: np.ndarray, signs: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return an operation's parameters, float64 [N], as torchvision.transforms.v2.RandAugment does.

    The arguments are those of `apply_op`, and the size of the images.
    """
    level: np.ndarray = magnitudes / TORCHVISION_MAX_MAGNITUDE
    side = width if name == "translate_x" else height
    parameters: dict[str, np.ndarray] = {
        "shear_x": 0.3 * level * signs,
        "shear_y": 0.3 * level * signs,
        "translate_x": -np.trunc(150 / 331 * side * level * signs),
        "translate_y": -np.trunc(150 / 331 * side * level * signs),
        "rotate": 30 * level * signs,
        "posterize": 8 - np.rint(4 * level),
        "solarize": np.ceil(255 * (1 - level)),
    }
    factors: np.ndarray = 1 + 0.9 * level * signs
    return parameters.get(name, factors)


def _timm(
    name: str, magnitudes: np.ndarray, signs: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return an operation's parameters, float64 [N], as timm's RandAugment with `inc1` does.

    The arguments are those of `apply_op`, and the size of the images.
    """
    level: np.ndarray = magnitudes / 10
    side = width if name == "translate_x" else height
    parameters: dict[str, np.ndarray] = {
        "shear_x": 0.3 * level * signs,
        "shear_y": 0.3 * level * signs,
        "translate_x": 0.45 * side * level * signs,
        "translate_y": 0.45 * side * level * signs,
        "rotate": 30 * level * signs,
        "posterize": 4 - np.trunc(4 * level),
        "solarize": 256 - np.minimum(256, np.trunc(256 * level)),
        "solarize_add": np.minimum(128, np.trunc(110 * level)),
    }
    factors: np.ndarray = np.maximum(0.1, 1 + 0.9 * level * signs)
    return parameters.get(name, factors)
