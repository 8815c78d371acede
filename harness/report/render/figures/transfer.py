"""The poster's figures: each target's accuracy against eps of pretraining (with one eps: for each subset), and every source
class by how hard it is.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harness.config.recipe import Recipe
from harness.report.data.rows import ClassRow, TransferRow, shown_eps, under_every_variant
from harness.report.render.figures import plot
from harness.report.render.figures.plot import MARKERS, NUM_COLOURS, PAPER, QUIET, SERIES, Panel
from harness.report.render.tables.accuracy import SCORE_TITLES
from harness.report.stats.intervals import estimate

_LINE_STYLES = {"full": "-", "fixed": "--"}
_OTHER_STYLES = (":", "-.")
_MOST_MARKERS = 48  # of a panel of the usual width
_LONGEST_NAME = 24  # of a subset at an axis; where one is longer, all are numbered
_Series = tuple[str, str]  # method, variant


def transfer_panels(recipe: Recipe, rows: Sequence[TransferRow]) -> list[Panel]:
    """Figure 1 of the poster: for each arch and target, its metric against eps; a colour a subset, a dash a method."""
    panels: list[Panel] = []
    archs = list(dict.fromkeys(row.arch for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    for arch in archs:
        for target in dict.fromkeys(row.target for row in rows):
            for variant in variants:
                mine = [
                    row
                    for row in rows
                    if (row.arch, row.target, row.variant) == (arch, target, variant)
                ]
                if mine:
                    title = ", ".join(
                        [
                            target,
                            *[arch] * (len(archs) > 1),
                            *[variant or "plain"] * (len(variants) > 1),
                        ]
                    )
                    panels.append(_transfer_panel(recipe, mine, f"transfer-{len(panels)}", title))
    return panels


def subset_panels(recipe: Recipe, rows: Sequence[TransferRow]) -> list[Panel]:
    """For recipes with one eps: for each arch and target, its metric for each subset; a marker each method and variant."""
    rows = under_every_variant(rows)
    panels: list[Panel] = []
    archs = list(dict.fromkeys(row.arch for row in rows))
    every = subset_series(recipe, rows)
    # More series than there are markers stand apart, a panel for each variant.
    apart = len(every) > NUM_COLOURS
    for arch in archs:
        for target in dict.fromkeys(row.target for row in rows):
            for variant in dict.fromkeys(one[1] for one in every) if apart else ("",):
                mine = [
                    row
                    for row in rows
                    if (row.arch, row.target) == (arch, target)
                    and (not apart or row.variant == variant)
                ]
                if mine:
                    title = ", ".join(
                        [target, *[arch] * (len(archs) > 1), *[variant or "plain"] * apart]
                    )
                    panels.append(
                        _subset_panel(recipe, mine, every, f"transfer-{len(panels)}", title)
                    )
    return panels


def subset_series(recipe: Recipe, rows: Sequence[TransferRow]) -> list[_Series]:
    """(method, variant) of each marker of `subset_panels`."""
    there = {(row.method, row.variant) for row in under_every_variant(rows)}
    return [
        one
        for variant in recipe.variants or ("",)
        for method in recipe.methods
        if (one := (method, variant)) in there
    ]


def subset_labels(recipe: Recipe) -> list[str]:
    """What stands at the axis for each subset: its name, or its number where names are too long."""
    names = [subset.name for subset in recipe.subsets]
    return (
        [str(place) for place, _ in enumerate(names, 1)]
        if max(map(len, names), default=0) > _LONGEST_NAME
        else names
    )


def _subset_panel(
    recipe: Recipe, rows: Sequence[TransferRow], series: Sequence[_Series], name: str, title: str
) -> Panel:
    metric = SCORE_TITLES[rows[0].metric]
    chance = 1 / rows[0].num_answers if rows[0].num_answers else None
    labels = subset_labels(recipe)
    places = {subset.name: place for place, subset in enumerate(recipe.subsets)}
    shown = [one for one in series if any((row.method, row.variant) == one for row in rows)]
    wide = len(labels) * len(shown) > _MOST_MARKERS
    room = 0.065 * max(map(len, labels))
    turned = room > (8.0 if wide else 2.9) / len(labels)
    bottom = 0.42 + (room if turned else 0.0)
    numbers = []
    with plot.style(name):
        figure, axes = plot.blank(8.4 if wide else 3.5, 2.1 + bottom, bottom=bottom)
        for number, (method, variant) in enumerate(shown):
            index = series.index((method, variant)) % NUM_COLOURS
            mine = [row for row in rows if (row.method, row.variant) == (method, variant)]
            found = {
                subset: estimate(row.score for row in mine if row.subset == subset)
                for subset in places
                if any(row.subset == subset for row in mine)
            }
            x = [places[subset] + 0.6 * ((number + 0.5) / len(shown) - 0.5) for subset in found]
            y = [100 * one.mean for one in found.values()]
            spreads = [100 * (one.sd or 0.0) for one in found.values()]
            if any(spreads):
                axes.errorbar(
                    x, y, yerr=spreads, fmt="none", ecolor=SERIES[index], elinewidth=1, alpha=0.7
                )
            axes.plot(
                x, y, linestyle="none", color=SERIES[index], marker=MARKERS[index], markersize=4.5
            )
            numbers += [
                (subset, method, variant, one.mean, one.sd, one.num_seeds)
                for subset, one in found.items()
            ]
        _percent_against(axes, "training classes", chance)
        axes.set_xticks(range(len(labels)), labels, rotation=90 if turned else 0, fontsize=7.5)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        svg = plot.to_svg(figure, name)
    return Panel(
        name,
        title,
        metric + plot.in_words(chance),
        f"{metric} on {title} for each subset; the table below holds its numbers",
        svg,
        plot.data(("subset", "method", "variant", "mean", "sd", "num_seeds"), numbers),
        wide=wide,
    )


def _transfer_panel(recipe: Recipe, rows: Sequence[TransferRow], name: str, title: str) -> Panel:
    metric = SCORE_TITLES[rows[0].metric]
    chance = 1 / rows[0].num_answers if rows[0].num_answers else None
    numbers = []
    with plot.style(name):
        figure, axes = plot.blank(3.5, 2.5)
        lines = [
            (subset_index, method)
            for method in recipe.methods
            for subset_index in range(len(recipe.subsets))
        ]
        for line_index, (subset_index, method) in enumerate(lines):
            shift = 0.12 * (
                (line_index + 0.5) / len(lines) - 0.5
            )  # close to their eps, and not on top of each other
            subset = recipe.subsets[subset_index].name
            found = _draw_line(
                axes,
                recipe,
                [row for row in rows if (row.subset, row.method) == (subset, method)],
                subset_index,
                method,
                shift,
            )
            numbers += [(subset, method, *line) for line in found]
        _percent_against(axes, "eps of pretraining", chance)
        axes.set_xticks(range(len(recipe.eps)), [shown_eps(eps) for eps in recipe.eps])
        axes.set_xlim(-0.35, len(recipe.eps) - 0.65)
        axes.xaxis.grid(False)
        svg = plot.to_svg(figure, name)
    return Panel(
        name,
        title,
        metric + plot.in_words(chance),
        f"{metric} on {title} against eps of pretraining; the table below holds its numbers",
        svg,
        plot.data(("subset", "method", "eps", "mean", "sd", "num_seeds"), numbers),
    )


def _percent_against(axes: Axes, label: str, chance: float | None) -> None:
    plot.chance_line(axes, chance)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(label)
    axes.set_ylabel("percent")


def _draw_line(
    axes: Axes,
    recipe: Recipe,
    rows: Sequence[TransferRow],
    subset_index: int,
    method: str,
    shift: float,
) -> list[tuple[float, float, float | None, int]]:
    """Means over seeds as a line with bars of one standard deviation; missing eps leave a gap. Its (eps, mean, sd, seeds)."""
    colour, marker = SERIES[subset_index % NUM_COLOURS], MARKERS[subset_index % len(MARKERS)]
    scores = {
        eps: estimate(row.score for row in rows if row.eps == eps)
        for eps in recipe.eps
        if any(row.eps == eps for row in rows)
    }
    if not scores:
        return []
    places = [index + shift for index in range(len(recipe.eps))]
    means = [100 * scores[eps].mean if eps in scores else float("nan") for eps in recipe.eps]
    spreads = [100 * (scores[eps].sd or 0.0) if eps in scores else 0.0 for eps in recipe.eps]
    if any(spreads):
        axes.errorbar(
            places, means, yerr=spreads, fmt="none", ecolor=colour, elinewidth=1, alpha=0.7
        )
    filled = line_style(recipe, method) == "-"
    axes.plot(
        places,
        means,
        linestyle=line_style(recipe, method),
        color=colour,
        marker=marker,
        markerfacecolor=colour if filled else PAPER,
        markeredgecolor=colour,
        markeredgewidth=1.3,
    )
    return [(eps, one.mean, one.sd, one.num_seeds) for eps, one in scores.items()]


def line_style(recipe: Recipe, method: str) -> str:
    """Solid for full, dashed for fixed, dotted and dash-dotted for what else there is."""
    others = [name for name in recipe.methods if name not in _LINE_STYLES]
    return _LINE_STYLES.get(method) or _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]


def class_panel(rows: Sequence[ClassRow], subsets: Sequence[str]) -> Panel | None:
    """Reference accuracy of every class, hardest first, in the colour of the first subset that leaves it out."""
    ranked = [row for row in rows if row.rank is not None and row.accuracy is not None]
    if not ranked:
        return None
    name = "ranking"
    with plot.style(name):
        figure, axes = plot.blank(8.4, 2.5)
        size = 26 if len(ranked) <= 120 else 10
        for index, subset in [(None, None), *enumerate(subsets)]:
            group = [
                row for row in ranked if (row.removed_by[0] if row.removed_by else None) == subset
            ]
            axes.scatter(
                [row.rank for row in group if row.rank],
                [100 * row.accuracy for row in group if row.accuracy is not None],
                s=size,
                color=QUIET if index is None else SERIES[index % NUM_COLOURS],
                marker="o" if index is None else MARKERS[index % len(MARKERS)],
                linewidths=0,
            )
        axes.set_ylim(-4, 104)
        axes.set_xlim(0, len(ranked) + 1)
        axes.xaxis.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("class, hardest first")
        axes.set_ylabel("reference accuracy, %")
        svg = plot.to_svg(figure, name)
    lines = [
        (row.rank, row.name, row.accuracy, row.removed_by[0] if row.removed_by else "")
        for row in ranked
    ]
    return Panel(
        name,
        "Every class by reference accuracy",
        "",
        "Reference accuracy of every class, hardest first; "
        "those that subsets leave out are marked, and listed in the table below",
        svg,
        plot.data(("rank", "class", "reference_accuracy", "left_out_by"), lines),
        wide=True,
    )
