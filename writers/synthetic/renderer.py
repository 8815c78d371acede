"""Draw one image: a cluttered background, textured objects, uneven light and camera noise.

Shapes and textures are functions of coordinates u and v, in units of an object's radius.
"""

# numpy types the results of ufuncs as Any.
# mypy: disable-error-code="no-any-return"

import colorsys
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

Array = np.ndarray
Field = Callable[[Array, Array], Array]  # maps u and v to the value of a shape or texture


class _Place(NamedTuple):
    """A window of pixels (right and bottom exclusive), and the pixels' coordinates in an object."""

    left: int
    top: int
    right: int
    bottom: int
    u: Array  # in units of the object's radius
    v: Array
    radius_px: float


class Canvas:
    """An image to draw on. At first it has only a background.

    Positions and lengths are in units of the image's shorter side, and positions are relative to
    its center. Colors are RGB in 0..1.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = (int(side) for side in rng.integers(80, 161, 2))
        self._side = min(self.height, self.width)
        self.half_height, self.half_width = (
            self.height / self._side / 2,
            self.width / self._side / 2,
        )
        dark, light = (self.random_color(0.35) for _ in range(2))
        noise = smooth_noise(rng, (self.height, self.width), cells=int(rng.integers(3, 8)))[
            ..., None
        ]
        self.pixels: Array = dark + (light - dark) * noise
        self._clutter()

    def random_color(self, max_saturation: float = 0.9) -> Array:
        """Draw a color of random hue, saturation and brightness."""
        return hsv(
            self.rng.uniform(), self.rng.uniform(0.0, max_saturation), self.rng.uniform(0.25, 0.95)
        )

    def random_place(self, margin: float) -> tuple[float, float]:
        """Draw a random center (x, y) that is at least `margin` from the edges, if possible."""
        x, y = max(0.0, self.half_width - margin), max(0.0, self.half_height - margin)
        return self.rng.uniform(-x, x), self.rng.uniform(-y, y)

    def draw(
        self,
        shape: Field,
        texture: Field,
        colors: Sequence[Array],
        center: tuple[float, float],
        radius: float,
        angle: float,
        squeeze: float = 1.0,
        opacity: float = 1.0,
        softness_px: float = 1.0,
    ) -> None:
        """Draw an object on the canvas.

        Args:
            shape: outline of the object.
            texture: pattern of the two colors.
            colors: two colors, RGB in 0..1.
            center: x and y of the object, from the center of the image.
            radius: length of one unit of u and v.
            angle: rotation in radians.
            squeeze: height relative to the width.
            opacity: 1 hides the background, 0 shows only the background.
            softness_px: width of the blurred edge in pixels.
        """
        place = self._place(center, radius, angle, squeeze, softness_px)
        if place is None:
            return
        u, v, radius_px = place.u, place.v, place.radius_px
        cover = np.clip(0.5 - shape(u, v) * np.float32(radius_px / softness_px), 0, opacity)[
            ..., None
        ]
        paint = colors[0] + (colors[1] - colors[0]) * texture(u, v)[..., None]
        window = self.pixels[place.top : place.bottom, place.left : place.right]
        window += cover * (paint - window)

    def extent(
        self,
        shape: Field,
        center: tuple[float, float],
        radius: float,
        angle: float,
        squeeze: float = 1.0,
    ) -> tuple[int, int, int, int] | None:
        """Return the box around the pixels that `draw` would cover by half or more.

        Returns:
            left, top, right, bottom in pixels, the last two exclusive. None if there are no such
            pixels.
        """
        place = self._place(center, radius, angle, squeeze, softness_px=1.0)
        covered = None if place is None else shape(place.u, place.v) <= 0
        if place is None or covered is None or not covered.any():
            return None
        columns, rows = (np.flatnonzero(covered.any(axis)) for axis in (0, 1))
        return (
            place.left + int(columns[0]),
            place.top + int(rows[0]),
            place.left + int(columns[-1]) + 1,
            place.top + int(rows[-1]) + 1,
        )

    def _place(
        self,
        center: tuple[float, float],
        radius: float,
        angle: float,
        squeeze: float,
        softness_px: float,
    ) -> "_Place | None":
        """Return the pixels near an object and their coordinates in it; None if it is outside."""
        radius_px = radius * self._side
        x_px, y_px = (
            self.width / 2 + center[0] * self._side,
            self.height / 2 + center[1] * self._side,
        )
        reach = 1.3 * radius_px + softness_px
        left, right = max(0, int(x_px - reach)), min(self.width, int(x_px + reach) + 1)
        top, bottom = max(0, int(y_px - reach)), min(self.height, int(y_px + reach) + 1)
        if left >= right or top >= bottom:
            return None
        x = ((np.arange(left, right, dtype=np.float32) + 0.5 - x_px) / radius_px)[None, :]
        y = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - y_px) / radius_px)[:, None]
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u, v = cosine * x + sine * y, (cosine * y - sine * x) / np.float32(squeeze)
        return _Place(left, top, right, bottom, u, v, radius_px)

    def cover(self, center: tuple[float, float], radius: float) -> None:
        """Draw a shape in front of an edge of the object, so that it is partly covered."""
        rng = self.rng
        direction = rng.uniform(0, 2 * np.pi)
        place = (
            center[0] + radius * 0.95 * np.cos(direction),
            center[1] + radius * 0.95 * np.sin(direction),
        )
        color = self.random_color(0.5)
        shape = (disc, bar, square)[rng.integers(3)]
        self.draw(
            shape,
            plain,
            (color, color),
            place,
            radius * rng.uniform(0.3, 0.55),
            rng.uniform(0, 2 * np.pi),
        )

    def finish(self) -> Array:
        """Add light from one side and camera noise; return the image, uint8 [height, width, 3]."""
        rng = self.rng
        direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.35)
        x = np.linspace(-strength, strength, self.width, dtype=np.float32)[None, :] * np.float32(
            np.cos(direction)
        )
        y = np.linspace(-strength, strength, self.height, dtype=np.float32)[:, None] * np.float32(
            np.sin(direction)
        )
        lit = self.pixels * (np.float32(rng.uniform(0.8, 1.15)) + x + y)[..., None]
        lit += rng.standard_normal(lit.shape, dtype=np.float32) * np.float32(
            rng.uniform(0.005, 0.03)
        )
        return (np.clip(lit, 0, 1) * 255).astype(np.uint8)

    def _clutter(self) -> None:
        """Draw blobs and scraps of texture that belong to no class."""
        rng = self.rng
        for _ in range(rng.integers(3, 8)):
            color = self.random_color(0.4)
            self.draw(
                disc,
                plain,
                (color, color),
                self.random_place(0.0),
                rng.uniform(0.08, 0.3),
                rng.uniform(0, np.pi),
                rng.uniform(0.4, 1.0),
                rng.uniform(0.3, 0.9),
                rng.uniform(1, 8),
            )
        for _ in range(rng.integers(1, 4)):
            scrap = (stripes(3), checks(2), dots(2), plain)[rng.integers(4)]
            self.draw(
                (disc, square, bar)[rng.integers(3)],
                scrap,
                (self.random_color(0.4), self.random_color(0.4)),
                self.random_place(0.0),
                rng.uniform(0.06, 0.16),
                rng.uniform(0, 2 * np.pi),
                1.0,
                0.7,
            )


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Convert hue, saturation, value to RGB, float32 [3]."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Draw noise in about -0.1..1.1 with `cells` cells per side, float32 [height, width]."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


# Shapes: the value is about the distance to the edge in units of the object's radius, negative
# inside. Most shapes have radius 1.


def disc(u: Array, v: Array) -> Array:
    """A disc of radius 1."""
    return np.hypot(u, v) - 1


def square(u: Array, v: Array) -> Array:
    """A square of half side 0.85."""
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def bar(u: Array, v: Array) -> Array:
    """A horizontal bar."""
    return np.maximum(np.abs(u) - 1, np.abs(v) - 0.3)


def ring(u: Array, v: Array) -> Array:
    """A ring of radii 0.5 and 1."""
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


def cross(u: Array, v: Array) -> Array:
    """Two crossed bars."""
    return np.minimum(bar(u, v), bar(v, u))


def corner(u: Array, v: Array) -> Array:
    """An L shape."""
    return np.minimum(bar(u, v - 0.6), bar(v, u + 0.7))


def diamond(u: Array, v: Array) -> Array:
    """A rhombus, higher than wide."""
    return (np.abs(u) / 0.6 + np.abs(v) - 1) * 0.6


@functools.cache
def polygon(num_corners: int) -> Field:
    """A regular polygon."""

    def field(u: Array, v: Array) -> Array:
        step = np.float32(2 * np.pi / num_corners)
        return np.hypot(u, v) * np.cos(np.mod(np.arctan2(v, u), step) - step / 2) - np.cos(step / 2)

    return field


@functools.cache
def star(num_points: int, inner: float) -> Field:
    """A star with `num_points` points; `inner` is the radius of the notches between them."""
    half = np.pi / num_points
    notch_u, notch_v = inner * np.cos(half), inner * np.sin(half)
    length = np.hypot(1 - notch_u, notch_v)
    normal_u, normal_v = np.float32(notch_v / length), np.float32((1 - notch_u) / length)

    def field(u: Array, v: Array) -> Array:
        folded = np.abs(np.mod(np.arctan2(v, u), np.float32(2 * half)) - np.float32(half))
        radius, folded = np.hypot(u, v), np.float32(half) - folded
        return (radius * np.cos(folded) - 1) * normal_u + radius * np.sin(folded) * normal_v

    return field


@functools.cache
def flower(num_petals: int, depth: float) -> Field:
    """A disc with a wavy edge; `depth` is the depth of the waves."""

    def field(u: Array, v: Array) -> Array:
        return (
            np.hypot(u, v) - (1 - depth) - np.float32(depth) * np.cos(num_petals * np.arctan2(v, u))
        )

    return field


# Textures: the value, in 0..1, is the fraction of the second color.


def plain(u: Array, v: Array) -> Array:
    """The first color only."""
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)


def shade(u: Array, v: Array) -> Array:
    """A gradient along u."""
    return np.clip(0.5 + 0.5 * u, 0, 1)


@functools.cache
def stripes(frequency: float, angle: float = 0.0) -> Field:
    """Stripes at `angle` in radians, `frequency` stripes of each color per two units."""
    cosine, sine = (np.float32(np.pi * frequency * part) for part in (np.cos(angle), np.sin(angle)))
    return lambda u, v: _edge(np.sin(cosine * u + sine * v))


@functools.cache
def checks(frequency: float) -> Field:
    """A checkerboard with `frequency` squares per unit."""
    rate = np.float32(np.pi * frequency)
    return lambda u, v: _edge(np.sin(rate * u) * np.sin(rate * v) * 2)


@functools.cache
def dots(frequency: float) -> Field:
    """A grid of dots, `frequency` per unit in each direction."""
    rate = np.float32(2 * np.pi * frequency)
    return lambda u, v: _edge(np.cos(rate * u) + np.cos(rate * v) - 0.6)


def _edge(wave: Array) -> Array:
    """A soft step: 0 for negative values, 1 for positive ones."""
    return np.clip(0.5 + 3 * wave, 0, 1)
