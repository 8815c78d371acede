"""Figures over amounts (images and steps of the target, images and classes of the source), and grids."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.report.data.induction import SAME_IMAGES, Induction
from harness.report.data.rows import GridRow, TransferRow, under_every_variant
from harness.report.render.figures import plot
from harness.report.render.figures.plot import (
    DASHES,
    HEAT,
    INK,
    MARKERS,
    NUM_COLOURS,
    PAPER,
    SERIES,
    Panel,
)
from harness.report.render.tables.accuracy import SCORE_TITLES
from harness.report.stats.intervals import estimate

MOST_HEAT_MAPS = 24
FEWEST_SIZES = 4  # of a curve over sources: fewer are compared in a table


def curve_panels(rows: Sequence[TransferRow], axis: str) -> list[Panel]:
    """For each target, its metric against `per_class` or `steps`; a colour a method, means over models, bars over seeds."""
    panels: list[Panel] = []
    methods = list(dict.fromkeys(row.method for row in rows))
    for target in dict.fromkeys(row.target for row in rows):
        mine = [row for row in rows if row.target == target]
        points: dict[tuple[str, int], dict[int, list[float]]] = {}
        for row in mine:
            size = getattr(row, axis)
            if size is not None:
                points.setdefault((row.method, size), {}).setdefault(row.seed, []).append(row.score)
        sizes = sorted({size for _, size in points})
        if len(sizes) < 2:
            continue
        name, metric = f"curve-{axis}-{len(panels)}", SCORE_TITLES[mine[0].metric]
        lines = []
        with plot.style(name):
            figure, axes = plot.blank(3.5, 2.5)
            for index, method in enumerate(methods):
                found = {
                    size: estimate(
                        float(np.mean(values)) for values in points[method, size].values()
                    )
                    for size in sizes
                    if (method, size) in points
                }
                _draw(
                    axes,
                    list(found),
                    [100 * one.mean for one in found.values()],
                    [100 * (one.sd or 0) for one in found.values()],
                    index,
                )
                lines += [
                    (method, size, one.mean, one.sd, one.num_seeds) for size, one in found.items()
                ]
            _log_axis(axes, sizes)
            axes.set_xlabel("training images a class" if axis == "per_class" else "training steps")
            axes.set_ylabel("percent")
            svg = plot.to_svg(figure, name)
        panels.append(
            Panel(
                name,
                target,
                metric,
                f"{metric} on {target} against {axis}",
                svg,
                plot.data(("method", axis, "mean", "sd", "num_seeds"), lines),
            )
        )
    return panels


def source_panels(rows: Sequence[TransferRow]) -> list[Panel]:
    """Mean over targets against the images, and against the classes, of pretraining; a colour a method.

    Against images: subsets with all classes. Against classes: subsets with nearly all images, coarser labels. Subsets with
    fewer of both stand in the first plot, hollow: at equal images they show what fewer classes do.
    """
    rows = [row for row in under_every_variant(rows) if row.num_classes and row.num_source_images]
    most_classes = max((row.num_classes or 0 for row in rows), default=0)
    most_images = max((row.num_source_images or 0 for row in rows), default=0)
    variants = list(dict.fromkeys(row.variant for row in rows))
    panels = []
    for number, variant in enumerate(variants):
        mine = [row for row in rows if row.variant == variant]
        of_variant = (f"-{number}", f", {variant or 'plain'}") if len(variants) > 1 else ("", "")
        by_images = [
            row
            for row in mine
            if (row.num_source_images or 0) < SAME_IMAGES * most_images
            or row.num_classes == most_classes
        ]
        if len({row.num_source_images for row in by_images}) >= FEWEST_SIZES:
            panels.append(
                _source_panel(
                    by_images, "num_source_images", "pretraining images", most_classes, of_variant
                )
            )
        by_classes = [
            row for row in mine if (row.num_source_images or 0) >= SAME_IMAGES * most_images
        ]
        if len({row.num_classes for row in by_classes}) >= FEWEST_SIZES:
            panels.append(
                _source_panel(
                    by_classes, "num_classes", "pretraining classes, all images", 0, of_variant
                )
            )
    return panels


def _source_panel(
    rows: Sequence[TransferRow],
    axis: str,
    label: str,
    most_classes: int,
    of_variant: tuple[str, str],
) -> Panel:
    """of_variant: what its name and its title end in, where there are several."""
    name = f"size-{axis.replace('_', '-')}{of_variant[0]}"
    lines = []
    targets = len({row.target for row in rows})
    with plot.style(name):
        figure, axes = plot.blank(4.6, 3.0)
        for index, method in enumerate(dict.fromkeys(row.method for row in rows)):
            for fewer in (False, True) if most_classes else (False,):
                sums: dict[tuple[int, str, int | None], list[float]] = {}
                for row in rows:
                    if row.method == method and (
                        not most_classes or (row.num_classes != most_classes) == fewer
                    ):
                        sums.setdefault(
                            (getattr(row, axis), row.subset, row.num_classes), []
                        ).append(row.score)
                found = {place: float(np.mean(values)) for place, values in sorted(sums.items())}
                _draw(
                    axes,
                    [place[0] for place in found],
                    [100 * mean for mean in found.values()],
                    [0.0] * len(found),
                    index,
                    hollow=fewer,
                )
                lines += [
                    (method, subset, number, classes, mean)
                    for (number, subset, classes), mean in found.items()
                ]
        _log_axis(axes, sorted({getattr(row, axis) for row in rows}))
        axes.set_xlabel(label)
        axes.set_ylabel("mean over targets, %")
        svg = plot.to_svg(figure, name)
    remark = (
        "; hollow: fewer classes"
        if most_classes and any(row.num_classes != most_classes for row in rows)
        else ""
    )
    return Panel(
        name,
        f"Transfer against {label}{of_variant[1]}",
        f"mean over {targets} targets{remark}",
        f"Mean transfer over {targets} targets against {label}{of_variant[1]}",
        svg,
        plot.data(("method", "subset", axis, "classes", "mean"), lines),
    )


def induction_panels(found: Sequence[Induction]) -> list[Panel]:
    """kNN accuracy against the classes of pretraining; a line each variant and eps, bars over seeds."""
    panels = []
    several = len({one.arch for one in found}) > 1
    for number, one in enumerate(found):
        name, title = f"induction-{number}", f"{one.target}, {one.arch}" if several else one.target
        lines = []
        with plot.style(name):
            figure, axes = plot.blank(3.5, 2.5)
            for index, (variant, eps) in enumerate(one.lines):
                mine = [row for row in one.rows if (row.variant, row.eps) == (variant, eps)]
                subsets = {
                    row.subset: row.num_classes or 0
                    for row in sorted(mine, key=lambda row: row.num_classes or 0)
                }
                means = {
                    subset: estimate(row.value for row in mine if row.subset == subset)
                    for subset in subsets
                }
                _draw(
                    axes,
                    list(subsets.values()),
                    [100 * mean.mean for mean in means.values()],
                    [100 * (mean.sd or 0) for mean in means.values()],
                    index,
                )
                lines += [
                    (subset, variant, eps, subsets[subset], mean.mean, mean.sd, mean.num_seeds)
                    for subset, mean in means.items()
                ]
            _log_axis(axes, sorted({row.num_classes for row in one.rows if row.num_classes}))
            axes.set_ylim(0, 1.06 * axes.get_ylim()[1])  # from zero: a small difference looks small
            plot.chance_line(axes, one.chance)
            axes.set_xlabel("classes of pretraining")
            axes.set_ylabel("kNN, %")
            svg = plot.to_svg(figure, name)
        detail = "kNN on frozen features" + plot.in_words(one.chance)
        panels.append(
            Panel(
                name,
                f"Induction: {title}",
                detail,
                f"kNN accuracy on {title} against the classes of pretraining",
                svg,
                plot.data(
                    ("subset", "variant", "eps", "num_classes", "mean", "sd", "num_seeds"), lines
                ),
            )
        )
    return panels


def _draw(
    axes: Axes,
    sizes: Sequence[float],
    means: Sequence[float],
    spreads: Sequence[float],
    index: int,
    hollow: bool = False,
) -> None:
    colour = SERIES[index % NUM_COLOURS]
    if any(spreads):
        axes.errorbar(
            sizes, means, yerr=spreads, fmt="none", ecolor=colour, elinewidth=1, alpha=0.7
        )
    axes.plot(
        sizes,
        means,
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        linestyle=DASHES[1] if hollow else DASHES[0],
        markerfacecolor=PAPER if hollow else colour,
        markeredgecolor=colour,
        markeredgewidth=1.2,
        markersize=4.5,
    )


def _log_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis that names the sizes themselves, as far as they have room."""
    axes.set_xscale("log")
    room, shown = (math.log(sizes[-1]) - math.log(sizes[0])) / 8, [sizes[-1]]
    for size in sizes[-2::-1]:
        if math.log(shown[-1]) - math.log(size) >= room:
            shown.append(size)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.grid(False)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def heat_panels(rows: Sequence[GridRow]) -> list[Panel]:
    """For each target and method whose grid has two axes or more: the score on val over the two with the most values.

    A square is the best over the other axes, averaged over models and seeds; white: every run there diverged.
    """
    groups: dict[tuple[str, str], list[GridRow]] = {}
    for row in rows:
        groups.setdefault((row.target, row.method), []).append(row)
    panels: list[Panel] = []
    for (target, method), mine in groups.items():
        values: dict[str, list[object]] = {}
        for row in mine:
            for axis, value in row.setting.items():
                if value not in values.setdefault(axis, []):
                    values[axis].append(value)
        wide = sorted(
            (axis for axis in values if len(values[axis]) > 1), key=lambda axis: -len(values[axis])
        )
        if len(wide) >= 2 and len(panels) < MOST_HEAT_MAPS:
            across, down = wide[:2]
            panels.append(
                _heat_panel(
                    f"grid-{len(panels)}",
                    f"{target}, {method}",
                    mine,
                    across,
                    _in_order(values[across]),
                    down,
                    _in_order(values[down]),
                )
            )
    return panels


def _in_order(values: Sequence[object]) -> list[object]:
    return sorted(
        values,
        key=lambda value: (
            not isinstance(value, int | float),
            value if isinstance(value, int | float) else 0,
            str(value),
        ),
    )


def _heat_panel(
    name: str,
    title: str,
    rows: Sequence[GridRow],
    across: str,
    columns: list[object],
    down: str,
    lines: list[object],
) -> Panel:
    best: dict[tuple[str, object, object], float] = {}
    for row in rows:
        place = row.key, row.setting.get(down), row.setting.get(across)
        if row.val_score is not None:
            best[place] = max(best.get(place, 0.0), row.val_score)
    sums: dict[tuple[object, object], list[float]] = {}
    for (_, line, column), score in best.items():
        sums.setdefault((line, column), []).append(score)
    table = np.array(
        [[np.mean(sums.get((line, column), [np.nan])) for column in columns] for line in lines]
    )
    with plot.style(name):
        labels = [_value(line) for line in lines]
        left = 0.36 + 0.062 * max(map(len, labels))
        figure, axes = plot.blank(
            max(3.2, left + 0.36 * len(columns)), 0.62 + 0.26 * len(lines), left=left
        )
        low, high = (np.nanmin(table), np.nanmax(table)) if np.isfinite(table).any() else (0.0, 1.0)
        axes.pcolormesh(
            np.arange(len(columns) + 1),
            np.arange(len(lines) + 1),
            np.ma.masked_invalid(table),
            vmin=low,
            vmax=high if high > low else low + 1e-9,
            cmap=ListedColormap(list(HEAT)),
            edgecolors=PAPER,
            linewidth=1.2,
        )
        for line in range(len(lines)):
            for column in range(len(columns)):
                if np.isfinite(table[line, column]):
                    dark = table[line, column] > low + 0.55 * (high - low)
                    axes.text(
                        column + 0.5,
                        line + 0.5,
                        f"{100 * table[line, column]:.1f}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color=PAPER if dark else INK,
                    )
        axes.set_xticks(
            np.arange(len(columns)) + 0.5, [_value(column) for column in columns], fontsize=7.5
        )
        axes.set_yticks(np.arange(len(lines)) + 0.5, labels, fontsize=7.5)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        svg = plot.to_svg(figure, name)
    numbers = [
        (line, column, None if np.isnan(table[i, j]) else float(table[i, j]))
        for i, line in enumerate(lines)
        for j, column in enumerate(columns)
    ]
    return Panel(
        name,
        title,
        "percent on val",
        f"Score on val of {title} over {across} and {down}",
        svg,
        plot.data((down, across, "val_score"), numbers),
    )


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
