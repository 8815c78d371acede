"""Draw figures of many models: transfer against source accuracy, Elo strength, cheap predictors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.special import expit

from harness.report.render.figures import plot
from harness.report.render.figures.plot import INK, PAPER, QUIET, SERIES, Panel
from harness.report.stats import summaries
from harness.report.stats.architectures import NUM_SOURCE_IMAGES, Association
from harness.report.stats.leaderboard import RankedModel, ScoreMatrix
from harness.report.stats.predictors import PredictorFit
from harness.report.text.phrases import correlation
from writers.text_names import percent

_TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, *(0.1 * i for i in range(1, 9)), 0.85, 0.9, 0.95)
_TICKS += (0.98, 0.99, 0.995, 0.999)
_MAX_RANKED = 30  # largest number of models in a figure; the table has all models
_MAX_NAMED = 18  # largest number of named points in a scatter plot
_MAX_NAME_LENGTH = 34
_NAME_SIZE = 6.5  # font size of names, in points
_LETTER = 0.56 * _NAME_SIZE  # mean width of a letter, in points
# Heights of a name above its point that are tried, in typographic points, nearest first.
_HEIGHTS = (0.0, *(sign * 7.0 * step for step in range(1, 9) for sign in (1, -1)))

Box = tuple[float, float, float, float]  # left, lower, right, upper edge, in points
Floats = NDArray[np.float64]


def scatter_panel(matrix: ScoreMatrix, association: Association, number: int) -> Panel:
    """Draw each model's mean logit of its scores over targets against its source accuracy.

    Bars are one standard error, without differences in difficulty between targets (Morey 2008).

    Args:
        matrix: scores without gaps, from which the association was computed.
        association: correlation to print.
        number: index of the panel, for its name.
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
            f"{model}: source {percent(source, 1)} %, transfer {percent(expit(mean), 1)} %"
            for model, source, mean in zip(names, accuracy, transfer, strict=True)
        ]
        axes.margins(0.16, 0.12)
        _logit_ticks(axes, "x")
        _logit_ticks(axes, "y")
        if len(names) <= _MAX_NAMED:
            labels = [label.rsplit("/", 1)[-1] for label in names]
            scale = 72 * np.array([figure.get_figwidth(), figure.get_figheight()])
            box = np.array(axes.get_position().bounds) * np.tile(scale, 2)
            pixels = axes.transData.transform(np.column_stack([x, transfer]))
            places = pixels * 72 / figure.dpi - box[:2]
            offsets = place_names(places, [len(label) for label in labels], box[2], box[3])
            for label, at, mean, (offset, is_left) in zip(
                labels, x, transfer, offsets, strict=True
            ):
                axes.annotate(
                    label,
                    (at, mean),
                    xytext=offset,
                    textcoords="offset points",
                    fontsize=_NAME_SIZE,
                    color=INK,
                    ha="right" if is_left else "left",
                    va="center",
                    arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkA": 0}
                    if abs(offset[1]) > _NAME_SIZE
                    else None,
                )
        axes.set_xlabel("source top-1, %, logit axis")
        axes.set_ylabel("mean transfer, %, logit axis")
        svg = plot.to_svg(figure, name, {"points": titles})
    decimals = 3 if abs(association.r) > 0.95 else 2
    r, low, high = (
        correlation(value, decimals)
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


Offset = tuple[float, float]


def place_names(
    places: Floats, lengths: Sequence[int], width: float, height: float
) -> list[tuple[Offset, bool]]:
    """Place a name next to each point of a plot, so that few names overlap.

    Names are placed from left to right. A name gets the nearest free place to the right or left of
    its point. If no place is free, it gets the place with the least overlap with names, points and
    edges.

    Args:
        places: float64 [N, 2], positions of the plot's points, from the lower left corner of the
            axes, in typographic points.
        lengths: number of letters of each name.
        width: width of the axes, in typographic points.
        height: height of the axes, in typographic points.

    Returns:
        For each name, its offset from its point, in typographic points, and True if the name ends
        at this offset, False if it begins there.
    """
    dots = [(x - 3, y - 3, x + 3, y + 3) for x, y in places.tolist()]
    taken: list[Box] = []
    chosen: dict[int, tuple[Offset, bool]] = {}
    for index in np.argsort(places[:, 0], kind="stable").tolist():
        (x, y), length = places[index].tolist(), _LETTER * lengths[index]
        candidates: list[tuple[float, float, Box, Offset, bool]] = []
        for distance, up in enumerate(_HEIGHTS):
            for is_left in (False, True):
                aside = 5.0 if up == 0 else 3.0
                left = x - aside - length if is_left else x + aside
                box = (left, y + up - _NAME_SIZE / 2, left + length, y + up + _NAME_SIZE / 2)
                others = [*taken, *(dot for place, dot in enumerate(dots) if place != index)]
                outside = max(0, -box[0]) + max(0, box[2] - width)
                outside += max(0, -box[1]) + max(0, box[3] - height)
                overlap = sum(_shared_area(box, other) for other in others)
                candidates.append(
                    (
                        round(overlap + 20 * outside, 3),
                        distance,
                        box,
                        (-aside if is_left else aside, up),
                        is_left,
                    )
                )
        best = min(candidates, key=lambda candidate: candidate[:2])
        taken.append(best[2])
        chosen[index] = best[3], best[4]
    return [chosen[index] for index in range(len(lengths))]


def _shared_area(first: Box, second: Box) -> float:
    across = min(first[2], second[2]) - max(first[0], second[0])
    along = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, across) * max(0.0, along)


def _logit_ticks(axes: Axes, which: str) -> None:
    """Place about six percentages on a logit axis, `x` or `y`."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    inside = [tick for tick in _TICKS if low <= _tick_place(tick) <= high]
    if len(inside) < 2:  # the range is narrow: use even steps in percent
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
    """Draw Elo strengths, the strongest on top.

    They have no intervals, because matches on one target are not independent.
    """
    method = ranking[0].method
    shown = ranking[:_MAX_RANKED]
    detail = f"{ranking[0].num_rounds:,} rounds"
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
    """Draw each predictor's weighted Kendall's tau: mean and interval over targets, best on top."""
    method, num_targets = fits[0].method, max(fit.num_targets for fit in fits)
    detail = f"{num_targets:,} target{'s' * (num_targets > 1)}" + (
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
        if (
            min(value - half for _, value, half in lines)
            <= 0
            <= max(value + half for _, value, half in lines)
        ):  # draw zero only inside the measured range, which it would otherwise compress
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
