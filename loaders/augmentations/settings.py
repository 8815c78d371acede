"""Settings of augmentations after the crop. Imports no torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from writers import names

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
TIMM_MAX_MAGNITUDE = 10
TORCHVISION_MAX_MAGNITUDE = 30

# Training of Salman et al. 2020, from the repository MadryLab/robustness.
_SALMAN = {
    "color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1},
    "lighting": 0.05,
}
# Training of Plested, Shen and Gedeon 2021, from their command line: timm's `rand-m9-mstd0.5-inc1`,
# random erasing with probability 0.5 and noise in each pixel, and mixup 0.2.
_NON_BINARY = {
    "randaugment": {"ops": "timm", "magnitude": 9, "magnitude_std": 0.5, "probability": 0.5},
    "erasing": {"probability": 0.5, "fill": "noise"},
    "mixup": 0.2,
}
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"salman": _SALMAN, "non_binary": _NON_BINARY}
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ColorJitter(_Model):
    """Random brightness, contrast, saturation and hue, in a random order (torchvision).

    Attributes:
        brightness: b: the factor is uniform in [max(0, 1 - b), 1 + b].
        contrast: likewise.
        saturation: likewise.
        hue: h: the shift is uniform in [-h, h], as a fraction of the color circle.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            raise ValueError("color_jitter has no effect: all of its strengths are 0")
        return self


class RandAugment(_Model):
    """A few operations per image, drawn with replacement (Cubuk et al. 2020).

    Attributes:
        ops: torchvision: the 14 operations of its RandAugment with 31 magnitude levels, resampled
            by the nearest pixel; pixels from outside are black. timm: the 15 operations of `inc1`,
            resampled bilinearly, where timm itself draws bilinear or bicubic; pixels from outside
            are gray (128).
        num_ops: operations per image.
        magnitude: strength; 0 to 30 for torchvision, 0 to 10 for timm.
        magnitude_std: standard deviation of the magnitude; results are clipped to 0 ... 10. For
            timm only.
        probability: probability that a drawn operation is applied.
    """

    ops: Literal["torchvision", "timm"] = "torchvision"
    num_ops: Annotated[int, Field(ge=1, le=16)] = 2
    magnitude: Strength = 9.0
    magnitude_std: Strength = 0.0
    probability: Probability = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        limit = TIMM_MAX_MAGNITUDE if self.ops == "timm" else TORCHVISION_MAX_MAGNITUDE
        if self.magnitude > limit:
            raise ValueError(
                f"randaugment.magnitude is {self.magnitude:g}; with ops: {self.ops} the highest is "
                f"{limit}"
            )
        if self.ops == "torchvision" and self.magnitude != int(self.magnitude):
            raise ValueError("randaugment.magnitude is a whole number with ops: torchvision")
        if self.ops == "torchvision" and self.magnitude_std:
            raise ValueError("randaugment.magnitude_std has an effect with ops: timm only")
        return self


class RandomErasing(_Model):
    """Replace a rectangle of an image (Zhong et al. 2020).

    Attributes:
        probability: fraction of the images.
        area: range of the rectangle's area, as a fraction of the image's.
        ratio: range of height / width; its logarithm is uniform.
        fill: mean: ImageNet's mean color. color: a random color. noise: a random color for each
            pixel. Colors have ImageNet's mean and standard deviation, clipped to [0, 255].
    """

    probability: Probability = 0.5
    area: tuple[Positive, Positive] = (0.02, 1 / 3)
    ratio: tuple[Positive, Positive] = (0.3, 1 / 0.3)
    fill: Literal["mean", "color", "noise"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"erasing.area is {list(self.area)}: it must be (low, high) in (0, 1]")
        if not self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"erasing.ratio is {list(self.ratio)}: it must be (low, high)")
        return self


class Augmentations(_Model):
    """Augmentations after crop and flip, in this order; or the name of one of `PRESETS`.

    RandAugment, color jitter, lighting and erasing change each image separately. MixUp and CutMix
    mix each image with the one half a batch away, and labels become probabilities. An augmentation
    that is None is not used.

    Attributes:
        randaugment: a few random operations per image.
        color_jitter: brightness, contrast, saturation and hue.
        lighting: standard deviation of noise along the principal colors of ImageNet (Krizhevsky et
            al. 2012, who take 0.1).
        erasing: replace a rectangle.
        mixup: a: the fraction of the image itself is drawn from Beta(a, a), per image (Zhang et al.
            2018).
        cutmix: a: the fraction of its area that an image keeps is drawn from Beta(a, a), per image
            (Yun et al. 2019). It keeps more if the partner's rectangle is cut at the border.
        mix_probability: fraction of images that are mixed. None means 1.
        cutmix_share: fraction of mixed images for which CutMix is used, if MixUp is used as well.
            None means 0.5.
    """

    randaugment: RandAugment | None = None
    color_jitter: ColorJitter | None = None
    lighting: Positive | None = None
    erasing: RandomErasing | None = None
    mixup: Positive | None = None
    cutmix: Positive | None = None
    mix_probability: Annotated[float, Field(gt=0, le=1)] | None = None
    cutmix_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"preset": value}
        if not isinstance(value, dict) or "preset" not in value:
            return value
        name = names.normalize(str(value["preset"]))
        if name not in PRESETS:
            raise ValueError(
                f"there is no preset '{value['preset']}'; presets are {', '.join(sorted(PRESETS))}"
            )
        own = {key: setting for key, setting in value.items() if key != "preset"}
        return _merged(PRESETS[name], own)

    @model_validator(mode="after")
    def _check_effects(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("it names no augmentation; remove it, or set it to null")
        if self.mix_probability is not None and not self.mixes:
            raise ValueError("mix_probability has an effect with mixup or cutmix only")
        if self.cutmix_share is not None and not (self.mixup and self.cutmix):
            raise ValueError("cutmix_share has an effect with both mixup and cutmix only")
        return self

    @property
    def mixes(self) -> bool:
        """True if labels become probabilities."""
        return self.mixup is not None or self.cutmix is not None


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` updated with `over`; nested mappings are merged key by key."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(under.get(key), Mapping)
        merged[key] = _merged(under[key], value) if both else value
    return merged
