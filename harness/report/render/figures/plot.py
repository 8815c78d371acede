"""Draw a plot as SVG for use inside a page, and keep its numbers as CSV.

Colors are the page's CSS variables, so plots follow the page's theme; `standalone` makes a file
with fixed colors. Equal rows give equal bytes: no dates, and ids derived from names. Labels are
plain text; matplotlib does not parse mathematics in them.
"""

import csv
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness.report.render.tables.table import inert
from harness.report.stats.intervals import SeedMean
from writers.text_names import printable_lines

NUM_COLORS = 6
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKER_SIGNS = ("●", "■", "▲", "◆", "▼", "✚")  # the shapes of MARKERS as text, for the legend
DASHES = ("-", "--", ":", "-.")
DASH_ARRAYS = {"-": "", "--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}

# matplotlib does not accept CSS variables. It draws in these colors, which to_svg replaces.
INK, GRID, PAPER, QUIET = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
STRONG_INK = "#0a0b10"  # for text on a color
SERIES = tuple(f"#0b0c{index:02x}" for index in range(NUM_COLORS))
HEAT = tuple(f"#0d0e{index:02x}" for index in range(10))  # colors of heat maps, low to high
_VARIABLES = {
    INK: "--ink-2",
    STRONG_INK: "--ink",
    GRID: "--rule",
    PAPER: "--paper",
    QUIET: "--quiet",
    **{color: f"--series-{index + 1}" for index, color in enumerate(SERIES)},
    **{color: f"--heat-{index}" for index, color in enumerate(HEAT)},
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
    """One plot with its caption and numbers.

    Attributes:
        detail: text that follows the title, such as the metric.
        description: text alternative for screen readers.
        data: the numbers as CSV.
        wide: the plot needs the full width of the page.
    """

    name: str
    title: str
    detail: str
    description: str
    svg: str
    data: str
    wide: bool = False


def style(name: str) -> AbstractContextManager[None]:
    """Use matplotlib's defaults plus _STYLE; a user's matplotlibrc has no effect."""
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
    """Create a figure of width x height inches without pyplot's global state.

    Margins are in inches, too, so that plots next to each other align.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure, figure.add_axes(box)


def marker_place(index: int) -> int:
    """Return the index of a series' marker. After NUM_COLORS, colors repeat with other markers."""
    return (index + index // NUM_COLORS) % len(MARKERS)


def draw_series(
    axes: Axes, x: Sequence[float], means: Sequence[SeedMean], index: int, *, hollow: bool = False
) -> None:
    """Draw means as a line with the color and marker of series `index`, and with bars of one sd.

    Args:
        axes: axes with percent on the y axis.
        x: position of each mean.
        means: means, as fractions.
        index: number of the series.
        hollow: True draws a dashed line and hollow markers.
    """
    color = SERIES[index % NUM_COLORS]
    y = [100 * mean.mean for mean in means]
    spreads = [100 * (mean.sd or 0.0) for mean in means]
    if any(spreads):
        axes.errorbar(x, y, yerr=spreads, fmt="none", ecolor=color, elinewidth=1, alpha=0.7)
    axes.plot(
        x,
        y,
        color=color,
        marker=MARKERS[marker_place(index)],
        linestyle=DASHES[1] if hollow else DASHES[0],
        markerfacecolor=PAPER if hollow else color,
        markeredgecolor=color,
        markeredgewidth=1.2,
        markersize=4.5,
    )


def chance_line(axes: Axes, chance: float | None) -> str:
    """Draw a dotted line at the fraction `chance` of a percent axis.

    It is omitted if `chance` is None, or if it would compress the measured range too much.

    Returns:
        Text for the end of the caption, such as `, chance 1.2 % (dotted)`; "" if chance
        is unknown.
    """
    low, high = axes.get_ylim()
    if chance is not None and low - 100 * chance < 0.6 * (high - low):
        axes.axhline(100 * chance, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_ylim(bottom=min(low, 100 * chance - 0.04 * (high - low)))
        return f", chance {100 * chance:.1f} % (dotted)"
    return f", chance {100 * chance:.1f} %" if chance else ""


def to_svg(
    figure: Figure, name: str, titles: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """Render as an `<svg>` element whose ids are unique among the page's figures.

    Args:
        figure: the plot.
        name: prefix of the ids.
        titles: gid of a line -> text of each of its markers, shown when the pointer is over it.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = printable_lines(text.getvalue())  # XML has no escapes for control characters
    svg = svg[svg.index("<svg") :]
    for gid, texts in titles.items():
        svg = _with_titles(svg, gid, texts)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns|xmlns:xlink|version)="[^"]*"', "", svg)
    for size in ("width", "height"):  # the page sets the size; the viewBox keeps the shape
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return re.sub(
        r"#0[abd]0[bce][0-9a-f]{2}",
        lambda color: (
            f"var({_VARIABLES[color.group()]})" if color.group() in _VARIABLES else color.group()
        ),
        svg,
    ).strip()


def _with_titles(svg: str, gid: str, titles: Sequence[str]) -> str:
    """Add a `<title>` to each marker of the line with this gid."""
    start = svg.find(f'<g id="{gid}">')
    if start < 0:  # no part of the line is inside the axes
        return svg
    end = svg.find('<g id="', start + 1)
    part = svg[start : end if end >= 0 else len(svg)]
    if part.count("<use ") != len(titles):  # some markers are outside the axes
        return svg
    remaining = (html.escape(printable_lines(title)) for title in titles)
    titled = re.sub(
        r"<use ([^>]*?)/>",
        lambda marker: f"<use {marker[1]}><title>{next(remaining)}</title></use>",
        part,
    )
    return svg[:start] + titled + svg[start + len(part) :]


def standalone(svg: str, css: str) -> str:
    """Turn a page's plot into an SVG file with the colors of the page's light theme."""
    # Reversed, so that the first definition of a color wins.
    colors = dict(reversed(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6});", css)))
    svg = re.sub(r"var\((--[\w-]+)\)", lambda name: colors[name.group(1)], svg)
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", head, 1) + "\n"


def to_csv_text(names: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Format the numbers of a plot as CSV at full precision; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        [inert(value) if isinstance(value, str) else value for value in line] for line in lines
    )
    return text.getvalue()
