"""Draw scores against sizes: images and steps of the target, images and classes of the source."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.report.data.induction import SAME_IMAGES, Induction
from harness.report.data.records import ModelId, TransferRow, under_every_variant
from harness.report.render.figures import plot
from harness.report.render.figures.plot import Panel
from harness.report.render.tables.cells import SCORE_TITLES
from harness.report.stats.intervals import SeedMean, seed_mean
from harness.report.stats.leaderboard import model_names

MIN_SIZES = 4  # smallest number of sizes for a curve over sources; fewer are compared in a table
_SIZE_LABELS = {"per_class": "training images per class", "steps": "training steps"}


def curve_series(rows: Sequence[TransferRow]) -> dict[tuple[str, ModelId], str]:
    """Return (method, model) -> label of its curve.

    A label names the model if there are several, or if it was trained from random weights.
    """
    names = model_names([row for row in rows if not row.is_scratch])
    has_archs = len({row.arch for row in rows if row.arch}) > 1
    labels = {}
    for row in rows:
        name = names.get(row.model_id, row.arch if has_archs else "")
        is_named = name and (len(names) > 1 or row.is_scratch)
        labels[row.method, row.model_id] = f"{row.method}, {name}" if is_named else row.method
    return labels


def rows_of_curves(rows: Sequence[TransferRow]) -> list[TransferRow]:
    """Select the rows that `curve_panels` draws, against images per class or against steps."""
    drawn = {
        id(row)
        for axis in _SIZE_LABELS
        for group in _groups(rows, axis).values()
        if len({getattr(row, axis) for row in group}) > 1
        for row in group
    }
    return [row for row in rows if id(row) in drawn]


def _groups(
    rows: Sequence[TransferRow], axis: str
) -> dict[tuple[str, int | None], list[TransferRow]]:
    """Group the rows that have a size on `axis`.

    Returns:
        (target, size on the other axis or None) -> rows. The axes are `per_class` and `steps`.
    """
    other_axis = _other(axis)
    groups: dict[tuple[str, int | None], list[TransferRow]] = {}
    for row in rows:
        if getattr(row, axis) is not None:
            groups.setdefault((row.target, getattr(row, other_axis)), []).append(row)
    return groups


def _other(axis: str) -> str:
    return "steps" if axis == "per_class" else "per_class"


def curve_panels(rows: Sequence[TransferRow], axis: str) -> list[Panel]:
    """Draw each target's metric against `per_class` or `steps`, with a curve per method and model.

    Each value of the other size has a separate panel. Bars are one standard deviation over seeds.
    """
    panels: list[Panel] = []
    other_axis = _other(axis)
    labels = curve_series(rows_of_curves(rows))
    groups = _groups(rows, axis)
    for (target, other_size), group in groups.items():
        if len({getattr(row, axis) for row in group}) > 1:
            is_one_of_several = len({other for name, other in groups if name == target}) > 1
            shown = f"{other_size:,}" if other_size else "all"
            suffix = f", {_SIZE_LABELS[other_axis]}: {shown}" if is_one_of_several else ""
            name = f"curve-{axis}-{len(panels)}"
            panels.append(_curve_panel(name, f"{target}{suffix}", group, axis, labels))
    return panels


def _curve_panel(
    name: str,
    title: str,
    rows: Sequence[TransferRow],
    axis: str,
    labels: Mapping[tuple[str, ModelId], str],
) -> Panel:
    metric = SCORE_TITLES[rows[0].metric]
    points: dict[tuple[str, ModelId], dict[int, list[float]]] = {}
    for row in rows:
        curve = points.setdefault((row.method, row.model_id), {})
        curve.setdefault(getattr(row, axis), []).append(row.score)
    lines = []
    with plot.style(name):
        figure, axes = plot.blank(3.5, 2.5)
        for index, ((method, model), label) in enumerate(labels.items()):
            curve = points.get((method, model), {})
            means = {size: seed_mean(curve[size]) for size in sorted(curve)}
            plot.draw_series(axes, list(means), list(means.values()), index)
            lines += [
                (method, size, mean.mean, mean.sd, mean.num_seeds, label)
                for size, mean in means.items()
            ]
        _log_axis(axes, sorted({size for curve in points.values() for size in curve}))
        axes.set_xlabel(_SIZE_LABELS[axis])
        axes.set_ylabel("percent")
        svg = plot.to_svg(figure, name)
    return Panel(
        name,
        title,
        metric,
        f"{metric} on {title} against {_SIZE_LABELS[axis]}",
        svg,
        plot.to_csv_text(("method", axis, "mean", "sd", "num_seeds", "curve"), lines),
    )


def source_panels(rows: Sequence[TransferRow]) -> list[Panel]:
    """Draw mean scores over targets against the numbers of pretraining images, and of classes.

    Each method has a color. The plot against classes has the subsets with nearly all images, whose
    labels may be coarser. The plot against images has the others and the subsets with all classes.
    Its hollow marks are subsets with fewer classes: they show the effect of fewer classes at equal
    numbers of images.
    """
    methods = source_methods(rows)
    return [_source_panel(group, methods) for group in _source_groups(rows)]


def source_methods(rows: Sequence[TransferRow]) -> list[str]:
    """Return the methods that `source_panels` draws, in the order of their colors."""
    return list(dict.fromkeys(row.method for group in _source_groups(rows) for row in group.rows))


@dataclass(frozen=True)
class _SourceGroup:
    """Rows of one plot of `source_panels`.

    Attributes:
        max_classes: rows with another number of classes are hollow; 0 means that no row is hollow.
        suffixes: ends of the plot's name and title if there are several variants.
    """

    rows: Sequence[TransferRow]
    axis: str
    label: str
    max_classes: int
    suffixes: tuple[str, str]


def _source_groups(rows: Sequence[TransferRow]) -> list[_SourceGroup]:
    rows = [row for row in under_every_variant(rows) if row.num_classes and row.num_source_images]
    max_classes = max((row.num_classes or 0 for row in rows), default=0)
    max_images = max((row.num_source_images or 0 for row in rows), default=0)
    variants = list(dict.fromkeys(row.variant for row in rows))
    groups = []
    for number, variant in enumerate(variants):
        suffixes = (f"-{number}", f", {variant or 'plain'}") if len(variants) > 1 else ("", "")
        by_images, by_classes = [], []
        for row in rows:
            if row.variant == variant:
                has_all_images = (row.num_source_images or 0) >= SAME_IMAGES * max_images
                if not has_all_images or row.num_classes == max_classes:
                    by_images.append(row)
                if has_all_images:
                    by_classes.append(row)
        if len({row.num_source_images for row in by_images}) >= MIN_SIZES:
            groups.append(
                _SourceGroup(
                    by_images, "num_source_images", "pretraining images", max_classes, suffixes
                )
            )
        if len({row.num_classes for row in by_classes}) >= MIN_SIZES:
            groups.append(
                _SourceGroup(
                    by_classes, "num_classes", "pretraining classes, all images", 0, suffixes
                )
            )
    return groups


def _source_panel(group: _SourceGroup, methods: Sequence[str]) -> Panel:
    """Draw one plot. The position in `methods` gives a method its color."""
    rows, axis, label, max_classes = group.rows, group.axis, group.label, group.max_classes
    suffixes = group.suffixes
    name = f"size-{axis.replace('_', '-')}{suffixes[0]}"
    num_targets = len({row.target for row in rows})
    has_fewer = bool(max_classes) and any(row.num_classes != max_classes for row in rows)
    lines = []
    with plot.style(name):
        figure, axes = plot.blank(4.6, 3.0)
        for index, method in enumerate(methods):
            for hollow in (False, True) if max_classes else (False,):
                scores: dict[tuple[int, str, int | None], list[float]] = {}
                for row in rows:
                    is_hollow = bool(max_classes) and row.num_classes != max_classes
                    if row.method == method and is_hollow == hollow:
                        place = getattr(row, axis), row.subset, row.num_classes
                        scores.setdefault(place, []).append(row.score)
                means = {
                    place: SeedMean(float(np.mean(values)), None, 1)
                    for place, values in sorted(scores.items())
                }
                plot.draw_series(
                    axes,
                    [size for size, _, _ in means],
                    list(means.values()),
                    index,
                    hollow=hollow,
                )
                lines += [
                    (method, subset, size, classes, mean.mean)
                    for (size, subset, classes), mean in means.items()
                ]
        _log_axis(axes, sorted({getattr(row, axis) for row in rows}))
        axes.set_xlabel(label)
        axes.set_ylabel("mean over targets, %")
        svg = plot.to_svg(figure, name)
    return Panel(
        name,
        f"Transfer against {label}{suffixes[1]}",
        f"mean over {num_targets:,} targets{'; hollow: fewer classes' if has_fewer else ''}",
        f"Mean transfer over {num_targets:,} targets against {label}{suffixes[1]}",
        svg,
        plot.to_csv_text(("method", "subset", axis, "classes", "mean"), lines),
    )


def induction_panels(inductions: Sequence[Induction]) -> list[Panel]:
    """Draw kNN accuracy against the number of classes of pretraining; a line per variant and eps.

    Bars are one standard deviation over seeds.
    """
    panels = []
    has_archs = len({induction.arch for induction in inductions}) > 1
    for number, induction in enumerate(inductions):
        name = f"induction-{number}"
        title = f"{induction.target}, {induction.arch}" if has_archs else induction.target
        lines = []
        with plot.style(name):
            figure, axes = plot.blank(3.5, 2.5)
            for index, (variant, eps) in enumerate(induction.lines):
                of_line = [
                    row for row in induction.rows if (row.variant, row.eps) == (variant, eps)
                ]
                num_classes = {
                    row.subset: row.num_classes or 0
                    for row in sorted(of_line, key=lambda row: row.num_classes or 0)
                }
                means = {
                    subset: seed_mean(row.value for row in of_line if row.subset == subset)
                    for subset in num_classes
                }
                plot.draw_series(axes, list(num_classes.values()), list(means.values()), index)
                lines += [
                    (subset, variant, eps, num_classes[subset], mean.mean, mean.sd, mean.num_seeds)
                    for subset, mean in means.items()
                ]
            _log_axis(axes, sorted({row.num_classes for row in induction.rows if row.num_classes}))
            # Begin the axis at zero, so that a small difference looks small.
            axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
            chance = plot.chance_line(axes, induction.chance)
            axes.set_xlabel("classes of pretraining")
            axes.set_ylabel("kNN, %")
            svg = plot.to_svg(figure, name)
        panels.append(
            Panel(
                name,
                f"Induction: {title}",
                "kNN on frozen features" + chance,
                f"kNN accuracy on {title} against the classes of pretraining",
                svg,
                plot.to_csv_text(
                    ("subset", "variant", "eps", "num_classes", "mean", "sd", "num_seeds"), lines
                ),
            )
        )
    return panels


def _log_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Use a logarithmic axis whose ticks are the sizes, as far as there is room."""
    axes.set_xscale("log")
    room, ticks = (math.log(sizes[-1]) - math.log(sizes[0])) / 8, [sizes[-1]]
    for size in sizes[-2::-1]:
        if math.log(ticks[-1]) - math.log(size) >= room:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.grid(False)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
