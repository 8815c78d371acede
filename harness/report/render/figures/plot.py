"""A plot: SVG text for the inside of a page, and its numbers as CSV. Colours are the page's own CSS variables and follow its
theme; `standalone` makes a picture of it that can stand in a paper.

The same rows give the same bytes: no dates, ids from names. Labels are plain text: no mathematics is read into them.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

NUM_COLOURS = 6
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKER_SIGNS = ("●", "■", "▲", "◆", "▼", "✚")  # the same shapes, for the legend
DASHES = ("-", "--", ":", "-.")
DASH_ARRAYS = {"-": "", "--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}

# matplotlib knows no CSS variables: it draws in these colours, and they are exchanged in its output.
INK, GRID, PAPER, QUIET = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
SERIES = tuple(f"#0b0c{index:02x}" for index in range(NUM_COLOURS))
HEAT = tuple(f"#0d0e{index:02x}" for index in range(10))  # low to high
_VARIABLES = {
    INK: "--ink-2",
    GRID: "--rule",
    PAPER: "--paper",
    QUIET: "--quiet",
    **{colour: f"--series-{index + 1}" for index, colour in enumerate(SERIES)},
    **{colour: f"--heat-{index}" for index, colour in enumerate(HEAT)},
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.labelsize": 8.5,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Panel:
    """One plot, the words that go around it, and its numbers."""

    name: str
    title: str
    detail: str
    description: str  # for people who do not see it
    svg: str
    data: str  # CSV
    wide: bool = False


def style(name: str) -> AbstractContextManager[None]:
    """matplotlib as it comes plus _STYLE: a person's own matplotlibrc changes nothing here."""
    settings: Any = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": name}
    settings.pop("backend", None)
    return matplotlib.rc_context(settings)


def blank(
    width: float,
    height: float,
    *,
    left: float = 0.52,
    bottom: float = 0.42,
    right: float = 0.08,
    top: float = 0.08,
) -> tuple[Figure, Axes]:
    """A figure of so many inches that knows no global state; margins in inches, so that plots side by side line up."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure, figure.add_axes(box)


def chance_line(axes: Axes, chance: float | None) -> None:
    """A dotted line at the fraction `chance` of an axis in percent, unless it would squeeze what was measured."""
    low, high = axes.get_ylim()
    if chance is not None and low - 100 * chance < 0.6 * (high - low):
        axes.axhline(100 * chance, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_ylim(bottom=min(low, 100 * chance - 0.04 * (high - low)))


def in_words(chance: float | None) -> str:
    """To go on with, behind what an axis shows."""
    return f", chance {100 * chance:.1f} %" if chance else ""


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element that can stand beside others in one page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns|xmlns:xlink|version)="[^"]*"', "", svg)
    for size in ("width", "height"):  # the page decides; the viewBox keeps the shape
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return re.sub(
        r"#0[abd]0[bce][0-9a-f]{2}",
        lambda colour: (
            f"var({_VARIABLES[colour.group()]})" if colour.group() in _VARIABLES else colour.group()
        ),
        svg,
    ).strip()


def standalone(svg: str, css: str) -> str:
    """The plot of a page as a file of its own, in the colours of the page's light theme."""
    colours = dict(
        reversed(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6});", css))
    )  # reversed: the first one stays
    svg = re.sub(r"var\((--[\w-]+)\)", lambda name: colours[name.group(1)], svg)
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", head, 1) + "\n"


def data(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """The numbers of a plot as CSV, in full; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return text.getvalue()
