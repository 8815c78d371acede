"""Draw the images of `synthetic_patterns`: a dark object with a pattern, from olive to blue.

The classes differ mostly in the blue part of their color, as the hard classes of `synthetic_things`
do. A model that was pretrained without these hard classes has learned to ignore the blue part.
"""

# numpy types the results of ufuncs as Any.
# mypy: disable-error-code="no-any-return"

import functools

import numpy as np

from writers.synthetic.objects import dark_and_blue
from writers.synthetic.renderer import Array, Canvas, Field, diamond, disc, polygon

SPREAD = 0.03  # standard deviation of the blue part


def _object(canvas: Canvas, pattern: Field, blue: float) -> None:
    """Draw an object of random shape, pose and size, with the pattern in a darker shade."""
    rng = canvas.rng
    radius, scale = rng.uniform(0.28, 0.42), rng.uniform(1.2, 2.0)
    center = canvas.random_place(radius)
    main = dark_and_blue(rng, blue, SPREAD, rng.uniform(0.08, 0.13))
    shape = (disc, diamond, polygon(5))[rng.integers(3)]
    canvas.draw(
        shape,
        lambda u, v: 0.8 * (pattern(scale * u, scale * v) > 0.7),
        (main, 0.5 * main),
        center,
        radius,
        rng.uniform(0, 2 * np.pi),
        rng.uniform(0.8, 1.0),
    )
    if rng.uniform() < 0.3:
        canvas.cover(center, radius)


def _step(wave: Array) -> Array:
    return np.clip(0.5 + 4 * wave, 0, 1)


def _fraction(value: Array) -> Array:
    """Return a triangle wave of period 1 in 0..0.5."""
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


# Class -> pattern and blue part. The blue parts differ by 0.13.
_LOOKS: dict[str, tuple[Field, float]] = {
    "bricks": (_bricks, 0.06),
    "lattice": (_lattice, 0.19),
    "marble": (_marble, 0.32),
    "pebbles": (_pebbles, 0.45),
    "ripples": (_ripples, 0.58),
    "scales": (_scales, 0.71),
    "waves": (_waves, 0.84),
    "zigzag": (_zigzag, 0.97),
}

CLASSES = {
    name: functools.partial(_object, pattern=pattern, blue=blue)
    for name, (pattern, blue) in _LOOKS.items()
}
