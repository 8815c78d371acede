"""Figures over many models: transfer against source accuracy on logit axes, Elo strengths, and what cheap scores predict."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.report.render.figures import plot
from harness.report.render.figures.plot import INK, PAPER, QUIET, SERIES, Panel
from harness.report.stats import hypothesis_tests as stats
from harness.report.stats.leaderboard import Association, Board, Standing
from harness.report.stats.predictors import Power

_TICKS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.85,
    0.9,
    0.95,
    0.98,
    0.99,
    0.995,
    0.999,
)
_MOST_SHOWN = 30  # models in a ranking, of which the table has all
_MOST_NAMED = 18  # points of a scatter that bear their names


def scatter_panel(board: Board, found: Association, number: int) -> Panel:
    """Mean logit over targets against source accuracy; bars: one standard error without the targets' difficulty."""
    name = f"source-{number}"
    full = board.complete()
    known = np.isfinite(full.source_accuracy)
    means = stats.dataset_adjusted(full.logits)
    accuracy, transfer, error = (
        full.source_accuracy[known],
        means.mean[known],
        means.standard_error[known],
    )
    names = [one for one, is_known in zip(full.names, known, strict=True) if is_known]
    x = stats.logit(accuracy, 50_000)
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
        )
        axes.margins(0.16, 0.12)
        _logit_ticks(axes, "x")
        _logit_ticks(axes, "y")
        if len(names) <= _MOST_NAMED:
            for place, point in enumerate(
                np.argsort(x, kind="stable")
            ):  # to both sides in turn, where the line is not
                above = place % 2 == 0
                axes.annotate(
                    names[point].rsplit("/", 1)[-1],
                    (x[point], transfer[point]),
                    xytext=(-5, 3) if above else (5, -7),
                    textcoords="offset points",
                    fontsize=6.5,
                    color=INK,
                    ha="right" if above else "left",
                )
        axes.set_xlabel("source top-1, %, logit axis")
        axes.set_ylabel("mean transfer, %, logit axis")
        svg = plot.to_svg(figure, name)
    digits = 3 if abs(found.r) > 0.95 else 2
    detail = f"r = {found.r:.{digits}f} ({found.low_95:.{digits}f} to {found.high_95:.{digits}f}), {found.num_models} models"
    lines = zip(names, accuracy.tolist(), transfer.tolist(), error.tolist(), strict=True)
    return Panel(
        name,
        f"Transfer by {board.method}",
        detail,
        f"Mean transfer by {board.method} against source accuracy, {detail}",
        svg,
        plot.data(("model", "source_accuracy", "mean_logit_transfer", "standard_error"), lines),
    )


def _logit_ticks(axes: Axes, which: str) -> None:
    """Percentages where they fall on a logit axis: about six."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    inside = [tick for tick in _TICKS if low <= float(stats.logit(tick, 1_000_000)) <= high]
    if len(inside) < 2:  # a narrow range: even steps in percent
        first, last = (1 / (1 + math.exp(-value)) for value in (low, high))
        inside = [float(f"{value:.3g}") for value in np.linspace(first, last, 5)[1:-1]]
    inside = inside[:: max(1, -(-len(inside) // 7))]
    places, labels = (
        [float(stats.logit(tick, 1_000_000)) for tick in inside],
        [f"{100 * tick:.4g}" for tick in inside],
    )
    if which == "x":
        axes.set_xticks(places, labels)
    else:
        axes.set_yticks(places, labels)


def elo_panel(standings: Sequence[Standing], number: int) -> Panel:
    """Strengths with 95 % Wald intervals, strongest on top."""
    method = standings[0].method
    shown = standings[:_MOST_SHOWN]
    detail = (
        f"{standings[0].num_rounds} rounds; bars: 95 % intervals, none where all was won or lost"
    )
    if len(shown) < len(standings):
        detail += f"; the first {len(shown)} of {len(standings)}"
    return _ranked_panel(
        f"elo-{number}",
        f"Elo by {method}",
        detail,
        "strength: log odds against an average model",
        [(one.model, one.elo, 1.96 * (one.elo_standard_error or 0.0)) for one in shown],
        plot.data(
            ("model", "elo", "standard_error", "num_rounds"),
            ((one.model, one.elo, one.elo_standard_error, one.num_rounds) for one in standings),
        ),
    )


def predictor_panel(powers: Sequence[Power], number: int) -> Panel:
    """Mean weighted Kendall of each predictor with its interval over targets, best on top."""
    method, targets = powers[0].method, max(one.num_targets for one in powers)
    detail = f"{targets} target{'s' * (targets > 1)}" + (
        "; bars: 95 % t intervals" if targets > 1 else ""
    )
    return _ranked_panel(
        f"predictors-{number}",
        f"What predicts {method}",
        detail,
        "weighted Kendall, mean over targets",
        [(one.predictor, one.weighted_kendall, one.half_width_95 or 0.0) for one in powers],
        plot.data(
            ("predictor", "weighted_kendall", "half_width_95", "num_targets"),
            (
                (one.predictor, one.weighted_kendall, one.half_width_95, one.num_targets)
                for one in powers
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
    """Names from top to bottom, a point and its interval for each."""
    names = [one if len(one) <= 34 else one[:33] + "…" for one, _, _ in lines]
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
    return Panel(
        name, title, detail, f"{title}: {label}; the table below holds the numbers", svg, data
    )
