"""Operations on images equal torchvision's functionals and timm's functions, image by image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import RandAugment as TorchvisionRandAugment
from torchvision.transforms.v2 import functional as oracle

from loaders.augmentations import Augmentations, RandAugment, color, geometry, randaugment
from loaders.augmentations.batch import Stream, augment

timm_ops = pytest.importorskip("timm.data.auto_augment")

SIDES = ((24, 32), (17, 17))


def photos(height: int, width: int, count: int = 6) -> Tensor:
    """Smooth images with noise, uint8 [N, H, W, 3]; the last two have a constant color."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand((count, 3, 4, 4), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noisy = smooth + 12 * torch.randn(smooth.shape, generator=generator)
    noisy[-2], noisy[-1, 1] = 0, 200
    return noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def channels_first(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)


COLOR = [
    (color.brightness, oracle.adjust_brightness, (0.0, 0.613, 1.0, 1.387, 1.871, 3.0)),
    (color.contrast, oracle.adjust_contrast, (0.0, 0.613, 1.0, 1.387, 1.871, 3.0)),
    (color.saturation, oracle.adjust_saturation, (0.0, 0.613, 1.0, 1.387, 1.871, 3.0)),
    (color.hue, oracle.adjust_hue, (-0.5, -0.2, 0.0, 0.1, 0.33, 0.5)),
    (color.sharpness, oracle.adjust_sharpness, (0.0, 0.613, 1.0, 1.387, 1.871, 3.0)),
    (color.posterize, oracle.posterize, (0, 1, 3, 4, 7, 8)),
    (color.solarize, oracle.solarize, (0, 1, 100, 200, 254, 255)),
    (color.autocontrast, lambda image, _: oracle.autocontrast(image), (0,) * 6),
    (color.equalize, lambda image, _: oracle.equalize(image), (0,) * 6),
    (color.invert, lambda image, _: oracle.invert(image), (0,) * 6),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("operation", "expected", "values"), COLOR, ids=[c[0].__name__ for c in COLOR]
)
def test_colors_are_those_of_torchvision(operation, expected, values, side):
    images = photos(*side)
    own = operation(images, torch.tensor(values, dtype=torch.float64))
    assert own.dtype == torch.uint8
    for image, result, value in zip(images, own, values, strict=True):
        wanted = expected(channels_first(image), value).permute(1, 2, 0)
        difference = (result.int() - wanted.int()).abs()
        # Float operations in another order may round to the next level.
        assert difference.max() <= 1
        assert (difference == 0).float().mean() > 0.97


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_geometry_is_that_of_torchvision(side, bilinear):
    height, width = side
    images = photos(*side, count=6)
    factors = np.array([-0.2931, -0.1013, 0.0, 0.0517, 0.2019, 0.2931])  # no ties between pixels
    mode = oracle.InterpolationMode.BILINEAR if bilinear else oracle.InterpolationMode.NEAREST

    def affine(
        image: Tensor, shear: list[float], translate: list[int], center: list[float] | None
    ) -> Tensor:
        return oracle.affine(
            image,
            angle=0,
            translate=translate,
            scale=1,
            shear=shear,
            center=center,
            interpolation=mode,
            fill=[9.0],
        )

    cases = [
        (
            geometry.shear_x(factors),
            lambda image, f: affine(image, [math.degrees(math.atan(f)), 0.0], [0, 0], [0, 0]),
        ),
        (
            geometry.shear_y(factors),
            lambda image, f: affine(image, [0.0, math.degrees(math.atan(f))], [0, 0], [0, 0]),
        ),
        (
            geometry.translate(np.rint(-20 * factors), np.rint(10 * factors)),
            lambda image, f: affine(image, [0.0, 0.0], [round(20 * f), -round(10 * f)], None),
        ),
        (
            geometry.rotate(100 * factors, height, width),
            lambda image, f: oracle.rotate(image, 100 * f, interpolation=mode, fill=[9.0]),
        ),
    ]
    for maps, expected in cases:
        own = geometry.resample(images, torch.from_numpy(maps), bilinear=bilinear, fill=9)
        inner = geometry.resample(
            torch.full_like(images, 255), torch.from_numpy(maps), bilinear=bilinear, fill=0
        )
        for image, result, factor, inside in zip(images, own, factors, inner, strict=True):
            wanted = expected(channels_first(image), factor).permute(1, 2, 0)
            differs = (result.int() - wanted.int()).abs() > 1
            # At the border, torchvision counts a pixel twice.
            differs &= (inside == 0) | (inside == 255)
            # torchvision computes coordinates in float32.
            assert differs.float().mean() < 0.003


@pytest.mark.parametrize("name", randaugment.TORCHVISION_OPS[1:])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_randaugment_has_torchvisions_parameters(name, magnitude):
    height, width = 24, 32
    reference = TorchvisionRandAugment(num_ops=1, magnitude=magnitude)
    key = {"color": "Color", "autocontrast": "AutoContrast"}.get(
        name, name.title().replace("_", "")
    )
    levels, signed = reference._AUGMENTATION_SPACE[key]
    values = levels(31, height, width)
    images = photos(height, width)
    for sign in (-1.0, 1.0) if signed else (1.0,):
        own = randaugment.apply_op(
            images,
            RandAugment(magnitude=magnitude),
            name,
            np.full(6, float(magnitude)),
            np.full(6, sign),
        )
        for image, result in zip(images, own, strict=True):
            value = 0.0 if values is None else float(values[magnitude]) * sign
            wanted = reference._apply_image_or_video_transform(
                channels_first(image), key, value, oracle.InterpolationMode.NEAREST, {}
            ).permute(1, 2, 0)
            assert ((result.int() - wanted.int()).abs() > 1).float().mean() < 0.01


@pytest.mark.parametrize("name", randaugment.TIMM_OPS)
@pytest.mark.parametrize("magnitude", [0.0, 4.7, 9.0, 9.9])
def test_randaugment_has_timms_parameters(name, magnitude, monkeypatch):
    """The oracle is timm's functions on Pillow images, with bilinear interpolation."""
    key = {
        "autocontrast": "AutoContrast",
        "solarize_add": "SolarizeAdd",
        "translate_x": "TranslateXRel",
        "translate_y": "TranslateYRel",
    }.get(name, name.title().replace("_", ""))
    key += (
        "Increasing"
        if name in ("posterize", "solarize", "color", "contrast", "brightness", "sharpness")
        else ""
    )
    images = photos(24, 32)[:4]
    for sign in (-1.0, 1.0):
        monkeypatch.setattr(timm_ops, "_randomly_negate", lambda value, sign=sign: sign * value)
        reference = timm_ops.AugmentOp(
            key, prob=1.0, magnitude=magnitude, hparams={"interpolation": Image.Resampling.BILINEAR}
        )
        own = randaugment.apply_op(
            images,
            RandAugment(ops="timm", magnitude=magnitude),
            name,
            np.full(4, magnitude),
            np.full(4, sign),
        )
        for image, result in zip(images, own, strict=True):
            wanted = torch.from_numpy(np.array(reference(Image.fromarray(image.numpy()))))
            difference = (result.int() - wanted.int()).abs()
            if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
                # Pillow repeats the pixels at the border; here they are blended with the fill.
                assert (difference > 2).float().mean() < 0.15
            else:
                # Pillow rounds gray levels and means to whole numbers.
                assert difference.max() <= 2


class DividesAsCuda(TorchDispatchMode):
    """Compute `tensor / number` as torch's CUDA kernel does: multiply by the rounded reciprocal."""

    num_divisions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.div, torch.ops.aten.div_):
            self.num_divisions += 1
            if not isinstance(args[1], Tensor):
                reciprocal = 1 / torch.tensor(args[1], dtype=args[0].dtype)
                result = args[0] * reciprocal
                return (
                    result if func.overloadpacket is torch.ops.aten.div else args[0].copy_(result)
                )
        return func(*args, **(kwargs or {}))


def test_divisions_round_as_on_a_cpu():
    """tensor / number rounds twice on a GPU, so that some pixels would differ."""
    with DividesAsCuda():
        assert (torch.arange(256.0) / 255).sub(torch.arange(256.0) / torch.tensor(255.0)).any()
    images = torch.randint(
        256, (64, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).permute(0, 3, 1, 2)
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.5}
    erasing = {"probability": 1.0, "fill": "noise"}
    settings = Augmentations.model_validate({"color_jitter": jitter, "erasing": erasing})
    stream = Stream(0, 0, np.arange(64, dtype=np.uint64))

    def augmented() -> Tensor:
        return augment(images, torch.zeros(64, dtype=torch.int64), settings, stream, 2)[0]

    expected = augmented()
    with DividesAsCuda() as mode:
        assert torch.equal(augmented(), expected)
    assert mode.num_divisions > 0


def test_a_chain_of_operations_on_an_empty_selection_keeps_the_images():
    images = photos(24, 32)
    drawn = randaugment.RandOps(np.full((6, 2), -1), np.zeros((6, 2)), np.ones((6, 2)))
    assert torch.equal(randaugment.apply(images, RandAugment(), drawn), images)
