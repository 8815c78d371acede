"""Figures over many models: transfer against source accuracy, Elo strengths, and predictors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.special import expit

from harness.report.render.figures import plot
from harness.report.render.figures.plot import INK, PAPER, QUIET, SERIES, Panel
from harness.report.stats import summaries
from harness.report.stats.architectures import NUM_SOURCE_IMAGES, Association
from harness.report.stats.leaderboard import RankedModel, ScoreMatrix
from harness.report.stats.predictors import PredictorFit

_TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, *(0.1 * i for i in range(1, 9)), 0.85, 0.9, 0.95)
_TICKS += (0.98, 0.99, 0.995, 0.999)
_MAX_RANKED = 30  # models in a figure; the table has all
_MAX_NAMED = 18  # points of a scatter plot with names
_MAX_NAME_LENGTH = 34
_NAME_SIZE = 6.5  # points


def scatter_panel(matrix: ScoreMatrix, association: Association, number: int) -> Panel:
    """Mean logit over targets against source accuracy, with bars of one standard error.

    The standard error ignores the targets' difficulty (Morey 2008).

    Args:
        matrix: what the association is computed on, without gaps.
        association: the correlation.
        number: number of the panel.
    """
    name = f"source-{number}"
    means = summaries.dataset_adjusted_means(matrix.logits)
    names, accuracy, transfer, error = (
        matrix.names,
        matrix.source_accuracy,
        means.mean,
        means.standard_error,
    )
    x = summaries.logit(accuracy, NUM_SOURCE_IMAGES)
    with plot.style(name):
        figure, axes = plot.blank(4.6, 3.2)
        slope, start = np.polyfit(x, transfer, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, slope * ends + start, color=QUIET, linewidth=1.1, zorder=1)
        axes.errorbar(
            x,
            transfer,
            yerr=np.nan_to_num(error),
            fmt="o",
            color=SERIES[0],
            ecolor=SERIES[0],
            elinewidth=1,
            markersize=4.5,
            zorder=3,
        )[0].set_gid("points")
        titles = [
            f"{model}: source {100 * source:.1f} %, transfer {100 * expit(mean):.1f} %"
            for model, source, mean in zip(names, accuracy, transfer, strict=True)
        ]
        axes.margins(0.16, 0.12)
        _logit_ticks(axes, "x")
        _logit_ticks(axes, "y")
        if len(names) <= _MAX_NAMED:
            # Names alternate between both sides; one that would be cut off changes side.
            width = axes.get_position().width * figure.get_figwidth() * 72
            first, last = axes.get_xlim()
            for place, point in enumerate(np.argsort(x, kind="stable")):
                above = place % 2 == 0
                name_text = names[point].rsplit("/", 1)[-1]
                place_left = width * float((x[point] - first) / (last - first))
                is_left = is_name_left(len(name_text), place_left, width, prefers_left=above)
                axes.annotate(
                    name_text,
                    (x[point], transfer[point]),
                    xytext=(-5 if is_left else 5, 3 if above else -7),
                    textcoords="offset points",
                    fontsize=_NAME_SIZE,
                    color=INK,
                    ha="right" if is_left else "left",
                )
        axes.set_xlabel("source top-1, %, logit axis")
        axes.set_ylabel("mean transfer, %, logit axis")
        svg = plot.to_svg(figure, name, {"points": titles})
    decimals = 3 if abs(association.r) > 0.95 else 2
    r, low, high = (
        f"{value:.{decimals}f}"
        for value in (association.r, association.low_95, association.high_95)
    )
    detail = f"r = {r} ({low} to {high}), {association.num_models:,} architectures"
    lines = zip(names, accuracy.tolist(), transfer.tolist(), error.tolist(), strict=True)
    return Panel(
        name,
        f"Transfer by {matrix.method}",
        detail,
        f"Mean transfer by {matrix.method} against source accuracy, {detail}",
        svg,
        plot.to_csv_text(
            ("model", "source_accuracy", "mean_logit_transfer", "standard_error"), lines
        ),
    )


def is_name_left(length: int, place: float, width: float, *, prefers_left: bool) -> bool:
    """Decide whether a name is written to the left of its point.

    Args:
        length: letters of the name.
        place: of the point, in points from the left edge of the axes.
        width: of the axes, in points.
        prefers_left: the side if the name has room there, or on neither side.
    """
    needed = 0.6 * _NAME_SIZE * length + 5
    has_room = {True: place >= needed, False: width - place >= needed}
    return (
        prefers_left
        if has_room[prefers_left] or not has_room[not prefers_left]
        else not prefers_left
    )


def _logit_ticks(axes: Axes, which: str) -> None:
    """Place about six percentages on a logit axis, `x` or `y`."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    inside = [tick for tick in _TICKS if low <= _tick_place(tick) <= high]
    if len(inside) < 2:  # a narrow range: even steps in percent
        first, last = expit((low, high))
        inside = [float(f"{value:.3g}") for value in np.linspace(first, last, 5)[1:-1]]
    inside = inside[:: max(1, -(-len(inside) // 7))]
    places, labels = (
        [_tick_place(tick) for tick in inside],
        [f"{100 * tick:.4g}" for tick in inside],
    )
    if which == "x":
        axes.set_xticks(places, labels)
    else:
        axes.set_yticks(places, labels)


def _tick_place(tick: float) -> float:
    return float(summaries.logit(tick, 1_000_000))


def elo_panel(ranking: Sequence[RankedModel], number: int) -> Panel:
    """Strengths, strongest on top. No intervals: matches on one target are not independent."""
    method = ranking[0].method
    shown = ranking[:_MAX_RANKED]
    detail = f"{ranking[0].num_rounds} rounds"
    if len(shown) < len(ranking):
        detail += f"; the first {len(shown)} of {len(ranking):,}"
    return _ranked_panel(
        f"elo-{number}",
        f"Elo by {method}",
        detail,
        "strength: log odds against an average model",
        [(row.model, row.elo, 0.0) for row in shown],
        plot.to_csv_text(
            ("model", "elo", "num_rounds"),
            ((row.model, row.elo, row.num_rounds) for row in ranking),
        ),
    )


def predictor_panel(fits: Sequence[PredictorFit], number: int) -> Panel:
    """Mean weighted Kendall of each predictor with its interval over targets, best on top."""
    method, num_targets = fits[0].method, max(fit.num_targets for fit in fits)
    detail = f"{num_targets} target{'s' * (num_targets > 1)}" + (
        "; bars: 95 % t intervals" if num_targets > 1 else ""
    )
    return _ranked_panel(
        f"predictors-{number}",
        f"Predictors of {method}",
        detail,
        "weighted Kendall, mean over targets",
        [(fit.predictor, fit.weighted_kendall, fit.half_width_95 or 0.0) for fit in fits],
        plot.to_csv_text(
            ("predictor", "weighted_kendall", "half_width_95", "num_targets"),
            (
                (fit.predictor, fit.weighted_kendall, fit.half_width_95, fit.num_targets)
                for fit in fits
            ),
        ),
    )


def _ranked_panel(
    name: str,
    title: str,
    detail: str,
    label: str,
    lines: Sequence[tuple[str, float, float]],
    data: str,
) -> Panel:
    """Draw (name, value, half width of its interval) from top to bottom."""
    names = [
        line if len(line) <= _MAX_NAME_LENGTH else line[: _MAX_NAME_LENGTH - 1] + "…"
        for line, _, _ in lines
    ]
    with plot.style(name):
        left = 0.2 + 0.066 * max(map(len, names))
        figure, axes = plot.blank(left + 2.9, 0.6 + 0.19 * len(lines), left=left)
        places = list(range(len(lines)))
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.errorbar(
            [value for _, value, _ in lines],
            places,
            xerr=[half for _, _, half in lines],
            fmt="o",
            color=SERIES[0],
            ecolor=SERIES[0],
            elinewidth=1.2,
            markersize=4.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
        )
        axes.set_yticks(places, names)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.yaxis.grid(False)
        axes.set_xlabel(label)
        svg = plot.to_svg(figure, name)
    description = f"{title}: {label}; the table below has the numbers"
    return Panel(name, title, detail, description, svg, data)
