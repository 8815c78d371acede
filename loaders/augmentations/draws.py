"""Draw the random parameters of augmentations with numpy, as functions of (seed, epoch, sample id).

Each augmentation has its own stream of random 64-bit words per sample. If an augmentation is
switched on or off, the draws of the other augmentations do not change. Normal and beta variables
are computed from uniform variables by the inverse distribution function. Positions and areas are
fractions of the image, so the draws do not depend on the resolution. In all functions, `ids` are
the sample ids, uint64 [B].
"""

from dataclasses import dataclass

import numpy as np

from loaders.augmentations.settings import Augmentations, ColorJitter, RandAugment, RandomErasing
from writers.random_streams import random_words, seed_of, uniform

NUM_TRIES = 10  # attempts to fit a rectangle into the image, as in torchvision and timm
# Principal components of ImageNet's colors in [0, 1], one per column, and the standard deviations
# along them, largest first (Krizhevsky et al. 2012; values of fb.resnet.torch).
PCA_STD = np.array([0.2175, 0.0188, 0.0045])
PCA_COLORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
JITTER_OPS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Jitter:
    """Color jitter of a batch.

    Attributes:
        factors: float64 [B, 4], the factor of each operation in JITTER_OPS; for hue, the shift.
        order: int64 [B, 4], indices into JITTER_OPS in the order in which they are applied.
    """

    factors: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class RandOps:
    """Operations of RandAugment for a batch; all arrays are [B, num_ops].

    Attributes:
        ops: int64, index of the operation; -1 for none.
        magnitudes: float64, in the units of the settings.
        signs: float64, -1 or 1.
    """

    ops: np.ndarray
    magnitudes: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True)
class Rectangles:
    """Rectangles to erase. Arrays are [B] unless stated, and do not depend on the image size.

    Of NUM_TRIES pairs of area and ratio, the first that fits into the image is used.

    Attributes:
        erased: bool, True if a rectangle of the image is erased.
        areas: float64 [B, NUM_TRIES], fraction of the image.
        ratios: float64 [B, NUM_TRIES], height / width.
        top: float64 in [0, 1), top edge, as a fraction of its possible positions.
        left: float64 in [0, 1), left edge, as a fraction of its possible positions.
        colors: float64 [B, 3], standard normal variables, for `fill: color`.
        keys: uint64, seed of the pixels, for `fill: noise`.
    """

    erased: np.ndarray
    areas: np.ndarray
    ratios: np.ndarray
    top: np.ndarray
    left: np.ndarray
    colors: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class Mixes:
    """Parameters of MixUp and CutMix; all arrays are [B].

    Attributes:
        own: float64, weight of the image; its partner, the image half a batch away, has the weight
            1 - own. 1 means not mixed.
        cuts: bool, True for CutMix, False for MixUp.
        top: float64 in [0, 1), center of CutMix's rectangle, as a fraction of the height.
        left: float64 in [0, 1), center of CutMix's rectangle, as a fraction of the width.
    """

    own: np.ndarray
    cuts: np.ndarray
    top: np.ndarray
    left: np.ndarray

    def part(self, rows: slice) -> "Mixes":
        """Return the parameters of some rows of the batch."""
        return Mixes(self.own[rows], self.cuts[rows], self.top[rows], self.left[rows])


def jitter(settings: ColorJitter, seed: int, epoch: int, ids: np.ndarray) -> Jitter:
    """Draw the color jitter of samples."""
    words = _words(seed, "jitter", epoch, ids, 8)
    draws = uniform(words[:, :4])
    strengths = np.array([getattr(settings, name) for name in JITTER_OPS])
    low, high = np.maximum(0, 1 - strengths), 1 + strengths
    low[3], high[3] = -settings.hue, settings.hue
    return Jitter(low + (high - low) * draws, np.argsort(words[:, 4:], axis=1, kind="stable"))


def lighting(std: float, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """Return the color to add to each sample, float64 [B, 3] for pixels in [0, 1]."""
    weights = _normal(_words(seed, "lighting", epoch, ids, 3)) * std
    # A matrix product would not do: BLAS may sum in an order that depends on the number of samples.
    colors: np.ndarray = (weights[:, None, :] * PCA_STD * PCA_COLORS).sum(axis=2)
    return colors


def rand_ops(
    settings: RandAugment, num_known: int, seed: int, epoch: int, ids: np.ndarray
) -> RandOps:
    """Draw the operations of samples. num_known: number of operations to choose from."""
    words = _words(seed, "randaug", epoch, ids, 4 * settings.num_ops)
    words = words.reshape(len(ids), settings.num_ops, 4)
    draws = uniform(words)
    ops = np.floor(draws[:, :, 0] * num_known).astype(np.int64)
    magnitudes = np.full(ops.shape, float(settings.magnitude))
    if settings.magnitude_std:
        magnitudes += settings.magnitude_std * _normal(words[:, :, 3])
        magnitudes = magnitudes.clip(0, 10)
    return RandOps(
        np.where(draws[:, :, 1] < settings.probability, ops, -1),
        magnitudes,
        np.where(words[:, :, 2] >> np.uint64(63), -1.0, 1.0),
    )


def rectangles(settings: RandomErasing, seed: int, epoch: int, ids: np.ndarray) -> Rectangles:
    """Draw the rectangles to erase."""
    words = _words(seed, "erasing", epoch, ids, 2 * NUM_TRIES + 7)
    draws = uniform(words)
    tries = draws[:, 7:].reshape(len(ids), NUM_TRIES, 2)
    (smallest, largest), (low, high) = settings.area, np.log(settings.ratio)
    return Rectangles(
        draws[:, 0] < settings.probability,
        smallest + (largest - smallest) * tries[:, :, 0],
        np.exp(low + (high - low) * tries[:, :, 1]),
        draws[:, 1],
        draws[:, 2],
        _normal(words[:, 3:6]),
        words[:, 6],
    )


def mixes(settings: Augmentations, seed: int, epoch: int, ids: np.ndarray) -> Mixes:
    """Draw for each sample whether MixUp, CutMix or neither is used, and the parameters."""
    words = _words(seed, "mixing", epoch, ids, 5)
    draws = uniform(words)
    share = settings.cutmix_share if settings.cutmix_share is not None else 0.5
    if settings.mixup is None or settings.cutmix is None:
        share = 0.0 if settings.cutmix is None else 1.0
    cuts = draws[:, 1] < share
    alpha = np.where(cuts, settings.cutmix or 1.0, settings.mixup or 1.0)
    from scipy import special  # only here: importing it takes 0.1 s

    own = special.betaincinv(alpha, alpha, _inside(words[:, 2]))
    probability = 1.0 if settings.mix_probability is None else settings.mix_probability
    return Mixes(np.where(draws[:, 0] < probability, own, 1.0), cuts, draws[:, 3], draws[:, 4])


def _words(seed: int, purpose: str, epoch: int, ids: np.ndarray, count: int) -> np.ndarray:
    return random_words(seed_of(seed, purpose), epoch, ids, count)


def _inside(words: np.ndarray) -> np.ndarray:
    """Convert words to float64 in the open interval (0, 1)."""
    # The sum of the largest words rounds to 1.
    values: np.ndarray = np.minimum(uniform(words) + 2.0**-54, 1 - 2.0**-53)
    return values


def _normal(words: np.ndarray) -> np.ndarray:
    from scipy import special  # only here: importing it takes 0.1 s

    values: np.ndarray = special.ndtri(_inside(words))
    return values
