"""Rows to plots: SVG text for the inside of a page. Colours are the page's own CSS variables and follow its theme.

The same rows give the same bytes: no dates, ids from names. Labels that come from people stay out of the SVG; the page
writes them beside it.
"""

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.estimate import estimate
from harness.report.rows import ClassRow, TransferRow
from harness.report.tables import SCORE_TITLES
from harness.settings import Recipe

NUM_COLOURS = 6
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKER_SIGNS = ("●", "■", "▲", "◆", "▼", "✚")       # the same shapes, for the legend
LINE_STYLES = {"full": "-", "fixed": "--"}
_OTHER_STYLES = (":", "-.")

# matplotlib knows no CSS variables: it draws in these colours, and they are exchanged in its output.
_INK, _GRID, _PAPER, _QUIET = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
_SERIES = tuple(f"#0b0c{index:02x}" for index in range(NUM_COLOURS))
_VARIABLES = {_INK: "var(--ink-2)", _GRID: "var(--rule)", _PAPER: "var(--paper)", _QUIET: "var(--quiet)",
              **{colour: f"var(--series-{index + 1})" for index, colour in enumerate(_SERIES)}}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.5, "axes.linewidth": 0.7,
    "axes.edgecolor": _GRID, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _GRID, "ytick.color": _GRID,
    "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "xtick.major.size": 0, "ytick.major.size": 0,
    "grid.color": _GRID, "grid.linewidth": 0.7, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "lines.linewidth": 1.7, "lines.markersize": 5,
    "figure.facecolor": "none", "axes.facecolor": "none", "axes.labelsize": 8.5, "path.simplify": False,
}


@dataclass(frozen=True)
class Panel:
    """One plot and the words that go around it."""

    name: str
    title: str
    detail: str
    description: str        # for people who do not see it
    svg: str


def transfer_panels(recipe: Recipe, rows: Sequence[TransferRow]) -> list[Panel]:
    """Figure 1 of the poster: for each arch and target, its metric against eps; a colour a subset, a dash a method."""
    panels: list[Panel] = []
    for arch in recipe.archs:
        for target in recipe.targets:
            mine = [row for row in rows if (row.arch, row.target) == (arch, target.label)]
            if mine:
                metric = SCORE_TITLES[mine[0].metric]
                chance = 1 / mine[0].num_answers if mine[0].num_answers else None
                detail = metric + (f", chance {100 * chance:.1f} %" if chance else "")
                name = f"transfer-{len(panels)}"
                title = f"{target.label}, {arch}" if len(recipe.archs) > 1 else target.label
                panels.append(Panel(name, title, detail, f"{metric} on {title} against eps of pretraining; the table "
                                    "below holds its numbers", _transfer_svg(recipe, mine, chance, name)))
    return panels


def _transfer_svg(recipe: Recipe, rows: Sequence[TransferRow], chance: float | None, name: str) -> str:
    with _style(name):
        figure, axes = _blank(3.5, 2.5)
        lines = [(subset_index, method) for method in recipe.methods for subset_index in range(len(recipe.subsets))]
        for line_index, (subset_index, method) in enumerate(lines):
            # With one eps there is no line to follow: the points stand side by side. Else they keep close to their eps.
            width = 0.6 if len(recipe.eps) == 1 else 0.12
            shift = width * ((line_index + 0.5) / len(lines) - 0.5)
            _draw_line(axes, recipe, [row for row in rows if (row.subset, row.method) ==
                                      (recipe.subsets[subset_index].name, method)], subset_index, method, shift)
        low, high = axes.get_ylim()
        if chance is not None and low - 100 * chance < 0.6 * (high - low):
            axes.axhline(100 * chance, color=_QUIET, linewidth=1, linestyle=(0, (1, 2)))
            axes.set_ylim(bottom=min(low, 100 * chance - 0.04 * (high - low)))
        axes.set_xticks(range(len(recipe.eps)), [f"{eps:g}" for eps in recipe.eps])
        axes.set_xlim(-0.35, len(recipe.eps) - 0.65)
        axes.xaxis.grid(False)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("eps of pretraining")
        axes.set_ylabel("percent")
        return _to_svg(figure, name)


def _draw_line(axes: Axes, recipe: Recipe, rows: Sequence[TransferRow], subset_index: int, method: str,
               shift: float) -> None:
    """Means over seeds as a line with bars of one standard deviation; missing eps leave a gap."""
    colour, marker = _SERIES[subset_index % NUM_COLOURS], MARKERS[subset_index % len(MARKERS)]
    scores = {eps: estimate(row.score for row in rows if row.eps == eps) for eps in recipe.eps
              if any(row.eps == eps for row in rows)}
    if not scores:
        return
    places = [index + shift for index in range(len(recipe.eps))]
    means = [100 * scores[eps].mean if eps in scores else float("nan") for eps in recipe.eps]
    spreads = [100 * (scores[eps].sd or 0.0) if eps in scores else 0.0 for eps in recipe.eps]
    if any(spreads):
        axes.errorbar(places, means, yerr=spreads, fmt="none", ecolor=colour, elinewidth=1, alpha=0.7)
    filled = line_style(recipe, method) == "-"
    axes.plot(places, means, linestyle=line_style(recipe, method), color=colour, marker=marker,
              markerfacecolor=colour if filled else _PAPER, markeredgecolor=colour, markeredgewidth=1.3)


def line_style(recipe: Recipe, method: str) -> str:
    """Solid for full, dashed for fixed, dotted and dash-dotted for what else there is."""
    others = [name for name in recipe.methods if name not in LINE_STYLES]
    return LINE_STYLES.get(method) or _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]


def class_panel(rows: Sequence[ClassRow], subsets: Sequence[str]) -> Panel | None:
    """Reference accuracy of every class, hardest first, in the colour of the first subset that leaves it out."""
    ranked = [row for row in rows if row.rank is not None and row.accuracy is not None]
    if not ranked:
        return None
    name = "ranking"
    with _style(name):
        figure, axes = _blank(8.4, 2.5)
        size = 26 if len(ranked) <= 120 else 10
        for index, subset in [(None, None), *enumerate(subsets)]:
            group = [row for row in ranked if (row.removed_by[0] if row.removed_by else None) == subset]
            axes.scatter([row.rank for row in group if row.rank], [100 * row.accuracy for row in group if row.accuracy
                                                                  is not None],
                         s=size, color=_QUIET if index is None else _SERIES[index % NUM_COLOURS],
                         marker="o" if index is None else MARKERS[index % len(MARKERS)], linewidths=0)
        axes.set_ylim(-4, 104)
        axes.set_xlim(0, len(ranked) + 1)
        axes.xaxis.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("class, hardest first")
        axes.set_ylabel("reference accuracy, %")
        svg = _to_svg(figure, name)
    return Panel(name, "Every class by reference accuracy", "", "Reference accuracy of every class, hardest first; "
                 "those that subsets leave out are marked, and listed in the table below", svg)


def _style(name: str) -> AbstractContextManager[None]:
    """matplotlib as it comes plus _STYLE: a person's own matplotlibrc changes nothing here."""
    settings: Any = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": name}
    settings.pop("backend", None)
    return matplotlib.rc_context(settings)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches that knows no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element that can stand beside others in one page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns|xmlns:xlink|version)="[^"]*"', "", svg)
    for size in ("width", "height"):        # the page decides; the viewBox keeps the shape
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
