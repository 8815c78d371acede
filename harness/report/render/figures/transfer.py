"""Draw each target's metric against eps, or for each subset if there is only one eps."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harness.config.recipe import Recipe
from harness.report.data.records import TransferRow, format_eps, under_every_variant
from harness.report.render.figures import plot
from harness.report.render.figures.plot import MARKERS, NUM_COLORS, PAPER, SERIES, Panel
from harness.report.render.tables.cells import SCORE_TITLES, decimals_for
from harness.report.stats.intervals import SeedMean, seed_mean
from harness.report.text.phrases import bounded
from writers.text_names import percent

_LINE_STYLES = {"full": "-", "fixed": "--"}
_OTHER_STYLES = (":", "-.")
_MAX_MARKERS = 48  # largest number of markers in a panel of normal width
_MAX_NAME_LENGTH = 24  # longest name of a subset on an axis; if one is longer, all are numbered
_Series = tuple[str, str]  # method, variant


def transfer_panels(recipe: Recipe, rows: Sequence[TransferRow]) -> list[Panel]:
    """Draw the metric against eps for each arch, target and variant.

    Each subset has a color, and each method a line style.
    """
    panels: list[Panel] = []
    archs = list(dict.fromkeys(row.arch for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    for arch in archs:
        for target in dict.fromkeys(row.target for row in rows):
            for variant in variants:
                place = arch, target, variant
                of_panel = [row for row in rows if (row.arch, row.target, row.variant) == place]
                if of_panel:
                    parts = [target, *[arch] * (len(archs) > 1)]
                    parts += [variant or "plain"] * (len(variants) > 1)
                    name = f"transfer-{len(panels)}"
                    panels.append(_transfer_panel(recipe, of_panel, name, ", ".join(parts)))
    return panels


def subset_panels(recipe: Recipe, rows: Sequence[TransferRow]) -> list[Panel]:
    """Draw a panel per arch and target: the metric of each subset, a marker per method and variant.

    This is for recipes with one eps. If there are more series than markers, each variant has its
    own panel.
    """
    rows = under_every_variant(rows)
    panels: list[Panel] = []
    archs = list(dict.fromkeys(row.arch for row in rows))
    series = subset_series(recipe, rows)
    is_split = len(series) > NUM_COLORS
    for arch in archs:
        for target in dict.fromkeys(row.target for row in rows):
            for variant in dict.fromkeys(variant for _, variant in series) if is_split else ("",):
                of_panel = [
                    row
                    for row in rows
                    if (row.arch, row.target) == (arch, target)
                    and (not is_split or row.variant == variant)
                ]
                if of_panel:
                    parts = [target, *[arch] * (len(archs) > 1), *[variant or "plain"] * is_split]
                    name = f"transfer-{len(panels)}"
                    panels.append(_subset_panel(recipe, of_panel, series, name, ", ".join(parts)))
    return panels


def subset_series(recipe: Recipe, rows: Sequence[TransferRow]) -> list[_Series]:
    """Return (method, variant) of each marker of `subset_panels`.

    A method that ran in one variant only is not listed under other variants, even if they share a
    model with it.
    """
    measured = {(row.method, row.variant) for row in rows}
    every = [(method, variant) for variant in recipe.variants or ("",) for method in recipe.methods]
    return [series for series in every if series in measured]


def subset_labels(recipe: Recipe) -> list[str]:
    """Return the axis label of each subset: its name, or its number if a name is too long."""
    names = [subset.name for subset in recipe.subsets]
    if max(map(len, names), default=0) > _MAX_NAME_LENGTH:
        return [str(number) for number, _ in enumerate(names, 1)]
    return names


def _subset_panel(
    recipe: Recipe, rows: Sequence[TransferRow], series: Sequence[_Series], name: str, title: str
) -> Panel:
    metric = SCORE_TITLES[rows[0].metric]
    chance = 1 / rows[0].num_answers if rows[0].num_answers else None
    labels = subset_labels(recipe)
    positions = {subset.name: index for index, subset in enumerate(recipe.subsets)}
    measured = {(row.method, row.variant) for row in rows}
    shown = [entry for entry in series if entry in measured]
    wide = len(labels) * len(shown) > _MAX_MARKERS
    label_height = 0.065 * max(map(len, labels))
    is_vertical = label_height > (8.0 if wide else 2.9) / len(labels)
    bottom = 0.42 + (label_height if is_vertical else 0.0)
    decimals = decimals_for(row.num_images for row in rows)
    numbers = []
    titles: dict[str, list[str]] = {}
    with plot.style(name):
        figure, axes = plot.blank(8.4 if wide else 3.5, 2.1 + bottom, bottom=bottom)
        for number, (method, variant) in enumerate(shown):
            index = series.index((method, variant)) % NUM_COLORS
            of_series = [row for row in rows if (row.method, row.variant) == (method, variant)]
            means = {
                subset: seed_mean(row.score for row in of_series if row.subset == subset)
                for subset in positions
                if any(row.subset == subset for row in of_series)
            }
            shift = 0.6 * ((number + 0.5) / len(shown) - 0.5)
            x = [positions[subset] + shift for subset in means]
            y, spreads = _percentages(list(means.values()))
            if any(spreads):
                axes.errorbar(
                    x, y, yerr=spreads, fmt="none", ecolor=SERIES[index], elinewidth=1, alpha=0.7
                )
            axes.plot(
                x,
                y,
                linestyle="none",
                color=SERIES[index],
                marker=MARKERS[index],
                markersize=4.5,
                gid=f"points-{number}",
            )
            titles[f"points-{number}"] = [
                _title((subset, method, variant), mean, decimals) for subset, mean in means.items()
            ]
            numbers += [
                (subset, method, variant, mean.mean, mean.sd, mean.num_seeds)
                for subset, mean in means.items()
            ]
        chance_text = _label_axes(axes, "training classes", chance)
        axes.set_xticks(range(len(labels)), labels, rotation=90 if is_vertical else 0, fontsize=7.5)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        svg = plot.to_svg(figure, name, titles)
    return Panel(
        name,
        title,
        metric + chance_text,
        f"{metric} on {title} for each subset; the table below has the numbers",
        svg,
        plot.to_csv_text(("subset", "method", "variant", "mean", "sd", "num_seeds"), numbers),
        wide=wide,
    )


def _transfer_panel(recipe: Recipe, rows: Sequence[TransferRow], name: str, title: str) -> Panel:
    metric = SCORE_TITLES[rows[0].metric]
    chance = 1 / rows[0].num_answers if rows[0].num_answers else None
    lines = [
        (subset_index, subset.name, method)
        for method in recipe.methods
        for subset_index, subset in enumerate(recipe.subsets)
    ]
    decimals = decimals_for(row.num_images for row in rows)
    numbers = []
    titles: dict[str, list[str]] = {}
    with plot.style(name):
        figure, axes = plot.blank(3.5, 2.5)
        for number, (subset_index, subset, method) in enumerate(lines):
            of_line = [row for row in rows if (row.subset, row.method) == (subset, method)]
            # Shift the points, so that markers and error bars of equal eps do not overlap.
            shift = 0.5 * ((number + 0.5) / len(lines) - 0.5)
            gid = f"points-{number}"
            means = _draw_line(axes, recipe, of_line, subset_index, method, shift, gid)
            titles[gid] = [
                _title((subset, method, f"eps {format_eps(eps)}"), mean, decimals)
                for eps, mean in means.items()
            ]
            numbers += [
                (subset, method, eps, mean.mean, mean.sd, mean.num_seeds)
                for eps, mean in means.items()
            ]
        chance_text = _label_axes(axes, "eps of pretraining", chance)
        axes.set_xticks(range(len(recipe.eps)), [format_eps(eps) for eps in recipe.eps])
        axes.set_xlim(-0.35, len(recipe.eps) - 0.65)
        axes.xaxis.grid(False)
        svg = plot.to_svg(figure, name, titles)
    return Panel(
        name,
        title,
        metric + chance_text,
        f"{metric} on {title} against eps of pretraining; the table below has the numbers",
        svg,
        plot.to_csv_text(("subset", "method", "eps", "mean", "sd", "num_seeds"), numbers),
    )


def _label_axes(axes: Axes, label: str, chance: float | None) -> str:
    """Label the axes, and return the part of the caption on chance."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(label)
    axes.set_ylabel("percent")
    return plot.chance_line(axes, chance)


def _percentages(means: Sequence[SeedMean | None]) -> tuple[list[float], list[float]]:
    """Return means and standard deviations in percent; NaN and 0 for None."""
    return (
        [100 * mean.mean if mean else float("nan") for mean in means],
        [100 * (mean.sd or 0.0) if mean else 0.0 for mean in means],
    )


def _draw_line(
    axes: Axes,
    recipe: Recipe,
    rows: Sequence[TransferRow],
    subset_index: int,
    method: str,
    shift: float,
    gid: str,
) -> dict[float, SeedMean]:
    """Draw means over seeds as a line with bars of one sd; a missing eps leaves a gap.

    Returns:
        eps -> its mean.
    """
    color = SERIES[subset_index % NUM_COLORS]
    marker = MARKERS[plot.marker_place(subset_index)]
    means = {
        eps: seed_mean(row.score for row in rows if row.eps == eps)
        for eps in recipe.eps
        if any(row.eps == eps for row in rows)
    }
    if not means:
        return {}
    x = [index + shift for index in range(len(recipe.eps))]
    y, spreads = _percentages([means.get(eps) for eps in recipe.eps])
    if any(spreads):
        axes.errorbar(x, y, yerr=spreads, fmt="none", ecolor=color, elinewidth=1, alpha=0.7)
    dashes = line_style(recipe, method)
    axes.plot(
        x,
        y,
        linestyle=dashes,
        color=color,
        marker=marker,
        markerfacecolor=color if dashes == "-" else PAPER,
        markeredgecolor=color,
        markeredgewidth=1.3,
        gid=gid,
    )
    return means


def _title(names: Iterable[str], mean: SeedMean, decimals: int) -> str:
    """Format the text that a point shows, as in the table: its names, mean, and sd over seeds."""
    spread = "" if mean.sd is None else f", sd {bounded(100 * mean.sd, decimals)}"
    return f"{', '.join(filter(None, names))}: {percent(mean.mean, decimals)} %{spread}"


def line_style(recipe: Recipe, method: str) -> str:
    """Return the line style: solid for full, dashed for fixed, dotted or dash-dotted for others."""
    others = [name for name in recipe.methods if name not in _LINE_STYLES]
    return _LINE_STYLES.get(method) or _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]
