"""Draw the images of `synthetic_scenes`: a large object and two small objects of one appearance.

The classes differ in texture and in the red and green parts of their colors, as the easy classes of
`synthetic_things` do. The blue part is random, so the hard classes of `synthetic_things` do not
help.
"""

import functools

import numpy as np

from writers.synthetic.objects import SHAPES, draw_object, red_and_green, second_color
from writers.synthetic.renderer import Canvas, Field, dots, shade

# Hue -> angle in degrees, as in objects.py; the angles are between those of `synthetic_things`.
HUES = {"red": 8.0, "orange": 27.0, "yellow": 46.0, "lime": 65.0, "green": 83.0}


def _scene(canvas: Canvas, shape: Field, angle: float, brightness: float, texture: Field) -> None:
    color = functools.partial(red_and_green, angle=angle, brightness=brightness)
    rng = canvas.rng
    for _ in range(2):
        main, radius = color(rng), rng.uniform(0.05, 0.12)
        place, turn = canvas.random_place(radius), rng.uniform(0, 2 * np.pi)
        canvas.draw(shape, texture, (main, second_color(rng)), place, radius, turn)
    draw_object(canvas, shape, color, texture)


_GROUPS = {"shaded": (shade, 0.8), "dotted": (dots(2), 0.6)}
_NAMES = tuple(f"{group}-{hue}" for group in _GROUPS for hue in HUES)


def _class(number: int, name: str) -> functools.partial[None]:
    group, hue = name.split("-")
    texture, brightness = _GROUPS[group]
    shape = list(SHAPES.values())[(3 * number + 1) % len(SHAPES)]
    return functools.partial(
        _scene, shape=shape, angle=HUES[hue], brightness=brightness, texture=texture
    )


CLASSES = {name: _class(number, name) for number, name in enumerate(_NAMES)}
