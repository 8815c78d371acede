"""Draw heat maps of hyperparameter grids: validation score over the two axes with most values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from harness.report.data.grid_rows import GridRows
from harness.report.data.records import GridRow
from harness.report.render.figures import plot
from harness.report.render.figures.plot import HEAT, PAPER, STRONG_INK, Panel
from writers.text_names import percent

MAX_HEAT_MAPS = 24
MAX_VALUES = 100  # largest number of values of an axis; more squares are not legible


def heat_panels(rows: GridRows) -> list[Panel]:
    """Draw the score on val over two grid axes, for each target and method with at least two axes.

    Only axes with 2 to MAX_VALUES values count. At most MAX_HEAT_MAPS are drawn. A square shows the
    best score over the other axes, averaged over models and seeds. It is blank if no run with its
    values has a score.
    """
    panels: list[Panel] = []
    for target, method, group in rows.groups(min_axes=2):
        if len(panels) == MAX_HEAT_MAPS:
            break
        values: dict[str, dict[object, None]] = {}
        for row in group:
            for axis, value in row.setting.items():
                values.setdefault(axis, {})[value] = None
        axes = sorted(
            (axis for axis in values if 1 < len(values[axis]) <= MAX_VALUES),
            key=lambda axis: -len(values[axis]),
        )
        if len(axes) >= 2:
            x, y = ((axis, _sorted(list(values[axis]))) for axis in axes[:2])
            name = f"grid-{len(panels)}"
            panels.append(_heat_panel(name, f"{target}, {method}", group, x, y))
    return panels


def _sorted(values: Sequence[object]) -> list[object]:
    """Sort numbers by value; other values follow, sorted by their text."""
    return sorted(
        values,
        key=lambda value: (
            not isinstance(value, int | float),
            value if isinstance(value, int | float) else 0,
            str(value),
        ),
    )


def _scores(
    rows: Sequence[GridRow], x: tuple[str, list[object]], y: tuple[str, list[object]]
) -> NDArray[np.float64]:
    """Return the scores [y values, x values]; NaN if no run with these values has a score."""
    best: dict[tuple[str, object, object], float] = {}
    for row in rows:
        place = row.key, row.setting.get(y[0]), row.setting.get(x[0])
        if row.val_score is not None:
            best[place] = max(best.get(place, 0.0), row.val_score)
    scores: dict[tuple[object, object], list[float]] = {}
    for (_, line, column), score in best.items():
        scores.setdefault((line, column), []).append(score)
    return np.array(
        [[np.mean(scores.get((line, column), [np.nan])) for column in x[1]] for line in y[1]]
    )


def _heat_panel(
    name: str,
    title: str,
    rows: Sequence[GridRow],
    x: tuple[str, list[object]],
    y: tuple[str, list[object]],
) -> Panel:
    """Draw one heat map. `x` and `y` are (name, values) of the axes."""
    scores = _scores(rows, x, y)
    (x_name, columns), (y_name, lines) = x, y
    low, high = (np.nanmin(scores), np.nanmax(scores)) if np.isfinite(scores).any() else (0.0, 1.0)
    with plot.style(name):
        labels = [_format(line) for line in lines]
        left = 0.36 + 0.062 * max(map(len, labels))
        figure, axes = plot.blank(
            max(3.2, left + 0.36 * len(columns)), 0.62 + 0.26 * len(lines), left=left
        )
        axes.pcolormesh(
            np.arange(len(columns) + 1),
            np.arange(len(lines) + 1),
            np.ma.masked_invalid(scores),
            vmin=low,
            vmax=high if high > low else low + 1e-9,
            cmap=ListedColormap(list(HEAT)),
            edgecolors=PAPER,
            linewidth=1.2,
        )
        for (line, column), score in np.ndenumerate(scores):
            if np.isfinite(score):
                axes.text(
                    column + 0.5,
                    line + 0.5,
                    percent(score, 1),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=PAPER if score > low + 0.7 * (high - low) else STRONG_INK,
                )
        axes.set_xticks(
            np.arange(len(columns)) + 0.5, [_format(column) for column in columns], fontsize=7.5
        )
        axes.set_yticks(np.arange(len(lines)) + 0.5, labels, fontsize=7.5)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        svg = plot.to_svg(figure, name)
    numbers = [
        (lines[i], columns[j], None if np.isnan(score) else float(score))
        for (i, j), score in np.ndenumerate(scores)
    ]
    return Panel(
        name,
        title,
        "percent on val",
        f"Score on val of {title} over {x_name} and {y_name}",
        svg,
        plot.to_csv_text((y_name, x_name, "val_score"), numbers),
    )


def _format(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
