"""Draw the images of `synthetic_things`: one object, of a color and a shape.

The hard classes are known by construction. The 24 easy classes differ in shape and in the red and
green parts of their colors; the blue part is random in each image. The six hard classes
(`HARD_CLASSES`) are dark squares that differ only in the blue part, and neighboring classes
overlap. A model that is pretrained without them learns to ignore blue. The classes of
`synthetic_patterns` differ in blue; the classes of `synthetic_scenes` do not.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from writers.synthetic.renderer import (
    Canvas,
    Field,
    bar,
    corner,
    cross,
    disc,
    flower,
    hsv,
    plain,
    polygon,
    ring,
    square,
    star,
)

Color = Callable[[np.random.Generator], np.ndarray]  # draws RGB in 0..1, float32 [3]

# Angle of a color in the plane of its red and green parts, in degrees: 0 is red without green.
HUES = {
    "red": 3.0,
    "scarlet": 13.5,
    "orange": 24.0,
    "amber": 34.5,
    "yellow": 45.0,
    "citrus": 55.5,
    "lime": 66.0,
    "grass": 76.5,
    "green": 87.0,
}
BRIGHTNESS = {"bright": 1.0, "dull": 0.56, "dark": 0.3}
MOST_BLUE = {"bright": 0.95, "dull": 0.95, "dark": 0.6}  # upper limit of the random blue part
# hues that have no dark class: its red and green parts would be those of a hard class
TOO_DARK = ("amber", "yellow", "citrus")

SHAPES: dict[str, Field] = {
    "disc": disc,
    "cross": cross,
    "ring": ring,
    "bar": bar,
    "star": star(5, 0.42),
    "square": square,
    "corner": corner,
    "flower": flower(5, 0.25),
}

LARGE_SHAPES: dict[str, Field] = {  # shapes of the easy classes, which show much of the color
    "disc": disc,
    "flower": flower(5, 0.25),
    "pentagon": polygon(5),
    "square": square,
}

HARD_BLUES = {"olive": 0.2, "moss": 0.27, "gray": 0.42, "slate": 0.57, "steel": 0.72, "blue": 0.79}
HARD_SPREAD = 0.15  # standard deviation of the blue part; neighboring means differ by 0.07 to 0.15
DARK = 0.1  # red and green parts of the hard classes


def draw_object(canvas: Canvas, shape: Field, color: Color, texture: Field = plain) -> None:
    """Draw one object of random pose and size. About 30 % of the objects are partly covered.

    Args:
        canvas: the image.
        shape: outline of the object.
        color: draws a random color of the object.
        texture: pattern in a second color, which has a random hue.
    """
    rng = canvas.rng
    radius = rng.uniform(0.3, 0.45)
    center = canvas.random_place(radius)
    main = color(rng)
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    canvas.draw(shape, texture, (main, second_color(rng)), center, radius, angle, squeeze)
    if rng.uniform() < 0.3:
        canvas.cover(center, radius)


def second_color(rng: np.random.Generator) -> np.ndarray:
    """Draw a dark or light color of low saturation and random hue, RGB float32 [3] in 0..1."""
    brightness = rng.choice([rng.uniform(0, 0.2), rng.uniform(0.85, 1)])
    return hsv(rng.uniform(), rng.uniform(0.0, 0.3), float(brightness))


def red_and_green(
    rng: np.random.Generator, angle: float, brightness: float, most_blue: float = 0.95
) -> np.ndarray:
    """Draw a color of this angle and about this brightness, RGB float32 [3] in 0..1.

    Its blue part is random.

    Args:
        rng: random numbers.
        angle: angle in the plane of red and green, in degrees, as in `HUES`.
        brightness: length of the red and the green part, in 0..1.
        most_blue: upper limit of the blue part, in 0..1.
    """
    turn, length = np.deg2rad(angle), brightness * rng.uniform(0.9, 1.05)
    red, green = length * np.cos(turn), length * np.sin(turn)
    return np.array([red, green, rng.uniform(0, most_blue)], np.float32)


def dark_and_blue(
    rng: np.random.Generator, blue: float, spread: float, dark: float = DARK
) -> np.ndarray:
    """Draw a color of equal red and green parts and about this blue part, RGB float32 [3].

    Args:
        rng: random numbers.
        blue: mean blue part, in 0..1.
        spread: standard deviation of the blue part.
        dark: red part and green part, in 0..1.
    """
    part = float(np.clip(blue + rng.normal(0, spread), 0, 1))
    return np.array([dark, dark, part], np.float32)


def _easy() -> Iterator[tuple[str, Field, Color]]:
    """Yield name, shape and color of each of the 24 easy classes."""
    shapes = itertools.cycle(LARGE_SHAPES.items())
    for (group, brightness), hue in itertools.product(BRIGHTNESS.items(), HUES):
        if group != "dark" or hue not in TOO_DARK:
            shape_name, shape = next(shapes)
            color = functools.partial(
                red_and_green,
                angle=HUES[hue],
                brightness=brightness,
                most_blue=MOST_BLUE[group],
            )
            yield f"{group}-{hue}-{shape_name}", shape, color


HARD_CLASSES = tuple(f"{name}-square" for name in HARD_BLUES)

CLASSES = {
    name: functools.partial(draw_object, shape=shape, color=color) for name, shape, color in _easy()
} | {
    name: functools.partial(
        draw_object,
        shape=square,
        color=functools.partial(dark_and_blue, blue=blue, spread=HARD_SPREAD),
    )
    for name, blue in zip(HARD_CLASSES, HARD_BLUES.values(), strict=True)
}
