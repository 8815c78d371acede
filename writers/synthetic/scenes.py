"""Images of `synthetic_scenes`: an object and two smaller ones of its color and texture.

The classes differ in colors that the easy classes of `synthetic_things` teach, on other textures.
None is blue, so the hard classes of `synthetic_things` do not help.
"""

import functools

import numpy as np

from writers.synthetic.objects import EASY_HUES, SHAPES, draw_object, second_color
from writers.synthetic.renderer import Canvas, Field, dots, hsv, shade

HUE_SHIFT = 0.03  # places the hues between those of the source


def _scene(
    canvas: Canvas, shape: Field, hue: float, look: tuple[float, float], texture: Field
) -> None:
    rng = canvas.rng
    for _ in range(2):
        color = hsv(hue + rng.normal(0, 0.02), *look)
        radius = rng.uniform(0.05, 0.12)
        place = canvas.random_place(radius)
        angle = rng.uniform(0, 2 * np.pi)
        canvas.draw(shape, texture, (color, second_color(rng)), place, radius, angle)
    draw_object(canvas, shape, hue, look, texture)


_GROUPS = {"shaded": (shade, (0.8, 0.75)), "dotted": (dots(2), (0.8, 0.5))}
_NAMES = tuple(f"{group}-{hue}" for group in _GROUPS for hue in EASY_HUES)


def _class(number: int, name: str) -> functools.partial[None]:
    group, hue = name.split("-")
    texture, look = _GROUPS[group]
    shape = list(SHAPES.values())[(3 * number + 1) % len(SHAPES)]
    return functools.partial(
        _scene, shape=shape, hue=EASY_HUES[hue] + HUE_SHIFT, look=look, texture=texture
    )


CLASSES = {name: _class(number, name) for number, name in enumerate(_NAMES)}
