"""Images of `synthetic_scenes`: several objects; classes differ in number, size and arrangement."""

import functools
from collections.abc import Callable

import numpy as np

from writers.synthetic.renderer import (
    Array,
    Canvas,
    Field,
    checks,
    cross,
    disc,
    dots,
    hsv,
    plain,
    polygon,
    ring,
    shade,
    square,
    star,
    stripes,
)

HUE_SPREAD = 0.07

Place = tuple[float, float, float]  # x, y, radius in a frame from -1 to 1
Arrange = Callable[[np.random.Generator], list[Place]]


def _scene(canvas: Canvas, arrange: Arrange, hue: float, shapes: tuple[Field, ...] = ()) -> None:
    """Draw objects of one look and hue at the positions of `arrange`.

    `shapes` gives each its own look.
    """
    rng = canvas.rng
    angle, size = rng.normal(0, 0.25), rng.uniform(0.4, 0.48)
    cosine, sine = size * np.cos(angle), size * np.sin(angle)
    shift = canvas.random_place(size)
    look = _look(rng, hue)
    for number, (x, y, radius) in enumerate(arrange(rng)):
        if shapes:
            look = (shapes[number], *_look(rng, hue)[1:])
        shape, texture, colors = look
        center = (shift[0] + cosine * x - sine * y, shift[1] + sine * x + cosine * y)
        canvas.draw(
            shape,
            texture,
            colors,
            center,
            radius * size,
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0.85, 1.0),
        )


def _look(rng: np.random.Generator, hue: float) -> tuple[Field, Field, tuple[Array, Array]]:
    shape = (disc, square, polygon(3), star(5, 0.5), ring, cross)[rng.integers(6)]
    texture = (plain, shade, stripes(3), checks(2), dots(2))[rng.integers(5)]
    hue += rng.normal(0, HUE_SPREAD)
    return (
        shape,
        texture,
        (
            hsv(hue, rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)),
            hsv(hue + 0.3, rng.uniform(0.0, 0.5), rng.uniform(0.0, 1.0)),
        ),
    )


def _jitter(rng: np.random.Generator, places: list[Place], amount: float = 0.06) -> list[Place]:
    return [
        (x + rng.normal(0, amount), y + rng.normal(0, amount), radius * rng.uniform(0.85, 1.1))
        for x, y, radius in places
    ]


def _one(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(0, 0, rng.uniform(0.35, 0.9))], 0.2)


def _two(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(-0.55, 0, 0.42), (0.55, 0, 0.42)], 0.1)


def _large_and_small(rng: np.random.Generator) -> list[Place]:
    side = rng.choice([-1, 1])
    return _jitter(rng, [(-0.35 * side, 0, 0.62), (0.75 * side, 0.2, 0.24)], 0.1)


def _three(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(-0.55, 0.45, 0.38), (0.55, 0.45, 0.38), (0, -0.5, 0.38)], 0.1)


def _row(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(x, 0, 0.25) for x in (-0.9, -0.3, 0.3, 0.9)], 0.04)


def _column(rng: np.random.Generator) -> list[Place]:
    return [(y, x, radius) for x, y, radius in _row(rng)]


def _circle(rng: np.random.Generator) -> list[Place]:
    angles = rng.uniform(0, 1) + np.arange(7) * 2 * np.pi / 7
    return _jitter(
        rng, [(0.8 * np.cos(angle), 0.8 * np.sin(angle), 0.23) for angle in angles], 0.04
    )


def _grid(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(x, y, 0.23) for x in (-0.65, 0, 0.65) for y in (-0.65, 0, 0.65)], 0.04)


def _scattered(rng: np.random.Generator) -> list[Place]:
    return [(*rng.uniform(-0.95, 0.95, 2), rng.uniform(0.12, 0.28)) for _ in range(8)]


def _nested(rng: np.random.Generator) -> list[Place]:
    return _jitter(rng, [(0, 0, 0.85), (0, 0, 0.4)])


_LOOKS: dict[str, tuple[Arrange, float]] = {
    "one": (_one, 0.0),
    "two-alike": (_two, 0.5),
    "three-alike": (_three, 0.1),
    "large-and-small": (_large_and_small, 0.6),
    "row": (_row, 0.3),
    "column": (_column, 0.8),
    "circle": (_circle, 0.2),
    "grid": (_grid, 0.7),
    "scattered": (_scattered, 0.4),
}

CLASSES = {
    name: functools.partial(_scene, arrange=arrange, hue=hue)
    for name, (arrange, hue) in _LOOKS.items()
} | {"disc-on-square": functools.partial(_scene, arrange=_nested, hue=0.9, shapes=(square, disc))}
