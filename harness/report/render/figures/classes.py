"""Draw the reference model's accuracy on each source class, and the subset without the class."""

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from harness.report.data.records import ClassRow
from harness.report.render.figures import plot
from harness.report.render.figures.plot import MARKERS, NUM_COLORS, QUIET, SERIES, Panel


def class_panel(rows: Sequence[ClassRow], subsets: Sequence[str]) -> Panel | None:
    """Draw the reference model's accuracy on every class, hardest first.

    A class has the color of the first subset that lacks it.

    Returns:
        None if the recipe has no ranking.
    """
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
                color=QUIET if index is None else SERIES[index % NUM_COLORS],
                marker="o" if index is None else MARKERS[plot.marker_place(index)],
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
        "Reference accuracy of every class, hardest first. Classes that subsets leave out are "
        "marked, and listed in the table below",
        svg,
        plot.to_csv_text(("rank", "class", "reference_accuracy", "left_out_by"), lines),
        wide=True,
    )
