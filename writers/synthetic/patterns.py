"""Images of `synthetic_patterns`: one pattern that fills the image."""

# numpy types the results of ufuncs as Any.
# mypy: disable-error-code="no-any-return"

import functools

import numpy as np

from writers.synthetic.renderer import Array, Canvas, Field, hsv, smooth_noise

HUE_SPREAD = 0.07


def _pattern(canvas: Canvas, pattern: Field, hue: float) -> None:
    """Draw the pattern at a random scale and angle, slightly bent, in two colors.

    One color has about the hue of the class, as water is mostly blue and brick mostly red.
    """
    rng = canvas.rng
    shape = (canvas.height, canvas.width)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(
        min(shape)
    ) - np.float32(0.5)
    angle, scale = rng.normal(0, 0.4), rng.uniform(3.0, 5.0)
    cosine, sine = np.float32(scale * np.cos(angle)), np.float32(scale * np.sin(angle))
    bend = np.float32(rng.uniform(0.1, 0.5))
    u = cosine * x + sine * y + bend * smooth_noise(rng, shape, 4)
    v = cosine * y - sine * x + bend * smooth_noise(rng, shape, 4)
    first = hsv(hue + rng.normal(0, HUE_SPREAD), rng.uniform(0.4, 0.95), rng.uniform(0.5, 0.9))
    second = hsv(
        rng.uniform(),
        rng.uniform(0, 0.4),
        float(rng.choice([rng.uniform(0.05, 0.25), rng.uniform(0.85, 1)])),
    )
    cover = np.clip(smooth_noise(rng, shape, 5) + np.float32(rng.uniform(0.3, 0.8)), 0, 1)[
        ..., None
    ]
    canvas.pixels += cover * (first + (second - first) * pattern(u, v)[..., None] - canvas.pixels)


def _step(wave: Array) -> Array:
    return np.clip(0.5 + 4 * wave, 0, 1)


def _fraction(value: Array) -> Array:
    """Triangle wave of period 1 in 0..0.5."""
    return np.abs(np.mod(value, 1) - 0.5)


def _waves(u: Array, v: Array) -> Array:
    return _step(np.sin(6 * (v + 0.25 * np.sin(4 * u))))


def _zigzag(u: Array, v: Array) -> Array:
    return _step(_fraction(v + 0.8 * _fraction(u)) - 0.25)


def _bricks(u: Array, v: Array) -> Array:
    row = np.floor(2 * v)
    return _step(
        np.minimum(0.5 - _fraction(2 * v), 2 * (0.5 - _fraction(u + 0.5 * np.mod(row, 2)))) - 0.1
    )


def _lattice(u: Array, v: Array) -> Array:
    return _step(np.minimum(0.5 - _fraction(u), 0.5 - _fraction(v)) - 0.1)


def _ripples(u: Array, v: Array) -> Array:
    return _step(np.sin(7 * np.hypot(u, v)))


def _marble(u: Array, v: Array) -> Array:
    return np.abs(
        np.sin(2 * u + 1.5 * np.sin(1.7 * v + np.sin(2.3 * u)) + 0.8 * np.sin(5.1 * u - 3.3 * v))
    )


def _scales(u: Array, v: Array) -> Array:
    """Rows of disks, each overlapping the next by half a disk."""
    row = np.floor(2 * v)
    return _step(np.hypot(np.mod(u + 0.5 * np.mod(row, 2), 1) - 0.5, np.mod(2 * v, 1) * 0.5) - 0.42)


def _pebbles(u: Array, v: Array) -> Array:
    """Stones of different sizes."""
    return _step(
        np.sin(3.1 * u + 1.3 * np.sin(2.2 * v)) * np.sin(3.7 * v + 1.3 * np.sin(2.6 * u)) - 0.1
    )


_LOOKS: dict[str, tuple[Field, float]] = {
    "bricks": (_bricks, 0.02),
    "lattice": (_lattice, 0.14),
    "marble": (_marble, 0.9),
    "pebbles": (_pebbles, 0.08),
    "ripples": (_ripples, 0.52),
    "scales": (_scales, 0.38),
    "waves": (_waves, 0.62),
    "zigzag": (_zigzag, 0.77),
}

CLASSES = {
    name: functools.partial(_pattern, pattern=pattern, hue=hue)
    for name, (pattern, hue) in _LOOKS.items()
}
