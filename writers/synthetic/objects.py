"""Images of `synthetic_things`: one object with a shape, a texture and about one hue."""

import functools

import numpy as np

from writers.synthetic.renderer import (
    Canvas,
    Field,
    bar,
    checks,
    corner,
    crescent,
    cross,
    diamond,
    disc,
    dots,
    flower,
    hsv,
    net,
    plain,
    polygon,
    ring,
    rings,
    shade,
    square,
    star,
    stripes,
    swirl,
    wedges,
)

RED, ORANGE, YELLOW, LIME, GREEN, CYAN, SKY, BLUE, PURPLE, MAGENTA, PINK = (
    0.0,
    0.08,
    0.15,
    0.25,
    0.36,
    0.49,
    0.56,
    0.64,
    0.76,
    0.84,
    0.92,
)


def _thing(canvas: Canvas, shape: Field, texture: Field, hue: float) -> None:
    """Draw one object of any pose and size, of about one hue."""
    rng = canvas.rng
    radius = rng.uniform(0.3, 0.45)
    center = canvas.random_place(radius)
    main = hsv(hue + rng.normal(0, 0.025), rng.uniform(0.5, 0.95), rng.uniform(0.55, 0.95))
    second = hsv(
        hue + rng.normal(0, 0.15),
        rng.uniform(0.0, 0.3),
        float(rng.choice([rng.uniform(0, 0.2), rng.uniform(0.85, 1)])),
    )
    canvas.draw(
        shape,
        texture,
        (main, second),
        center,
        radius,
        rng.uniform(0, 2 * np.pi),
        rng.uniform(0.8, 1.0),
    )
    if rng.uniform() < 0.3:
        canvas.cover(center, radius)


_LOOKS: dict[str, tuple[Field, Field, float]] = {
    "striped-disc": (disc, stripes(3), SKY),
    "checked-disc": (disc, checks(2), RED),
    "swirled-disc": (disc, swirl(3), GREEN),
    "ringed-disc": (disc, rings(2), BLUE),
    "wedged-disc": (disc, wedges(4), YELLOW),
    "checked-square": (square, checks(2.5), BLUE),
    "dotted-square": (square, dots(1.8), MAGENTA),
    "netted-square": (square, net(1.5), GREEN),
    "dotted-triangle": (polygon(3), dots(2.2), GREEN),
    "striped-triangle": (polygon(3), stripes(4), PINK),
    "plain-ring": (ring, plain, YELLOW),
    "wedged-ring": (ring, wedges(6), MAGENTA),
    "striped-cross": (cross, stripes(4, 0.8), LIME),
    "plain-cross": (cross, plain, RED),
    "plain-crescent": (crescent, plain, CYAN),
    "dotted-crescent": (crescent, dots(2.5), YELLOW),
    "netted-diamond": (diamond, net(2), LIME),
    "shaded-bar": (bar, shade, RED),
    "plain-corner": (corner, plain, BLUE),
    "shaded-flower": (flower(5, 0.25), shade, PINK),
    "pentagon": (polygon(5), plain, ORANGE),
    "hexagon": (polygon(6), plain, ORANGE),
    "heptagon": (polygon(7), plain, ORANGE),
    "five-pointed-star": (star(5, 0.42), shade, CYAN),
    "six-pointed-star": (star(6, 0.55), shade, CYAN),
    "seven-pointed-star": (star(7, 0.66), shade, CYAN),
    "fine-striped-square": (square, stripes(4.6), CYAN),
    "wide-striped-square": (square, stripes(3.8), CYAN),
    "steep-striped-bar": (bar, stripes(4, 0.35), PURPLE),
    "slanted-striped-bar": (bar, stripes(4, 0.75), PURPLE),
}

CLASSES = {
    name: functools.partial(_thing, shape=shape, texture=texture, hue=hue)
    for name, (shape, texture, hue) in _LOOKS.items()
}
