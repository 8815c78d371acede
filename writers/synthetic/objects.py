"""Images of `synthetic_things`: one object, of a color and a shape.

The hard classes are known by construction. Six classes of 30 (`HARD_CLASSES`) are squares whose
blue and violet hues overlap. Every other class differs from the rest in hue, brightness or
saturation, and none of them is blue. A model that is pretrained without the hard classes has not
learned to separate blue from violet, which the classes of `synthetic_patterns` need and those of
`synthetic_scenes` do not.
"""

import functools
import itertools

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
    ring,
    square,
    star,
)

EASY_HUES = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "lime": 0.25, "green": 0.36}
HARD_HUES = {
    "cyan": 0.50,
    "sky": 0.56,
    "azure": 0.62,
    "blue": 0.68,
    "indigo": 0.74,
    "violet": 0.80,
}
HUE_SPREAD = 0.012  # standard deviation of an easy class's hue
HARD_HUE_SPREAD = 0.045  # of a hard class's hue: neighbors are 0.06 apart, so that they overlap

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

# (saturation, brightness) of groups of easy classes
BRIGHT, DARK, PALE = (0.85, 0.85), (0.85, 0.4), (0.3, 0.9)
DEEP, DULL = (0.9, 0.2), (0.5, 0.6)


def draw_object(
    canvas: Canvas,
    shape: Field,
    hue: float,
    look: tuple[float, float],
    texture: Field = plain,
    hue_spread: float = HUE_SPREAD,
) -> None:
    """Draw one object of any pose and size; something covers a part of every third one.

    Args:
        canvas: the image.
        shape: outline of the object.
        hue: mean hue, in 0..1.
        look: mean saturation and brightness, in 0..1.
        texture: pattern of the second color, which has any hue.
        hue_spread: standard deviation of the hue.
    """
    rng = canvas.rng
    radius = rng.uniform(0.3, 0.45)
    center = canvas.random_place(radius)
    saturation, brightness = look
    main = hsv(
        hue + rng.normal(0, hue_spread),
        float(np.clip(saturation + rng.uniform(-0.1, 0.15), 0, 1)),
        float(np.clip(brightness + rng.uniform(-0.1, 0.1), 0, 1)),
    )
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    canvas.draw(shape, texture, (main, second_color(rng)), center, radius, angle, squeeze)
    if rng.uniform() < 0.3:
        canvas.cover(center, radius)


def second_color(rng: np.random.Generator) -> np.ndarray:
    """Return a dark or light color of low saturation and any hue, float32 [3]."""
    brightness = rng.choice([rng.uniform(0, 0.2), rng.uniform(0.85, 1)])
    return hsv(rng.uniform(), rng.uniform(0.0, 0.3), float(brightness))


def _easy() -> dict[str, tuple[Field, float, tuple[float, float]]]:
    """Looks of the 24 easy classes by name."""
    looks = {}
    shapes = itertools.cycle(SHAPES.items())
    groups = {"bright": BRIGHT, "dark": DARK, "pale": PALE}
    for (hue_name, hue), (group, look) in itertools.product(EASY_HUES.items(), groups.items()):
        shape_name, shape = next(shapes)
        looks[f"{group}-{hue_name}-{shape_name}"] = (shape, hue, look)
    for group, look in {"deep": DEEP, "dull": DULL}.items():
        for hue_name in ("green", "red", "yellow", "lime"):
            shape_name, shape = next(shapes)
            looks[f"{group}-{hue_name}-{shape_name}"] = (shape, EASY_HUES[hue_name], look)
    looks["white-disc"] = (disc, 0.0, (0.05, 0.95))
    return looks


HARD_CLASSES = tuple(f"{name}-square" for name in HARD_HUES)

CLASSES = {
    name: functools.partial(draw_object, shape=shape, hue=hue, look=look)
    for name, (shape, hue, look) in _easy().items()
} | {
    name: functools.partial(
        draw_object, shape=square, hue=hue, look=(0.8, 0.7), hue_spread=HARD_HUE_SPREAD
    )
    for name, hue in zip(HARD_CLASSES, HARD_HUES.values(), strict=True)
}
