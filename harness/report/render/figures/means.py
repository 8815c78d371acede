"""Draw the figure at the top of a report: each model's mean over the targets."""

from collections.abc import Mapping, Sequence

from harness.report.render.figures import plot
from harness.report.render.figures.plot import MARKERS, NUM_COLORS, SERIES, Panel
from harness.report.stats.leaderboard import ScoreMatrix
from writers.text_names import percent

MAX_MODELS = 20


def mean_panel(matrices: Mapping[str, ScoreMatrix]) -> Panel | None:
    """Draw each model's mean over the targets, with a marker per method and the best model on top.

    For each method, means are over the models and targets of `ScoreMatrix.complete`: all of these
    models have all of these targets, so that means are comparable.

    Returns:
        None if there are fewer than two models and fewer than two methods, or two scores on a
        single target.
    """
    complete = {method: matrix.complete() for method, matrix in matrices.items()}
    means = {
        method: dict(zip(matrix.names, matrix.scores.mean(axis=1).tolist(), strict=True))
        for method, matrix in complete.items()
        if matrix.targets
    }
    if len({name for of_method in means.values() for name in of_method}) == 1:
        # There is only one model, so compare its methods.
        means = {"": {method: next(iter(own.values())) for method, own in means.items()}}
    own_targets = {method: matrix.targets for method, matrix in complete.items() if matrix.targets}
    labels = _labels(own_targets) if len(set(own_targets.values())) > 1 else {}
    best: dict[str, float] = {}
    for of_method in means.values():
        for name, mean in of_method.items():
            best[name] = max(mean, best.get(name, 0.0))
    targets_of = {target for matrix in complete.values() for target in matrix.targets}
    if len(best) < 2 or (len(targets_of) == 1 and sum(map(len, means.values())) == 2):
        return None
    is_mean = len(targets_of) > 1
    shown = sorted(best, key=lambda name: -best[name])[:MAX_MODELS]
    name, numbers = "means", []
    titles: dict[str, list[str]] = {}
    with plot.style(name):
        left = 0.3 + 0.068 * max(map(len, shown))
        top = 0.3 if len(means) > 1 else 0.08
        figure, axes = plot.blank(
            max(6.4, left + 4), 0.42 + top + 0.19 * len(shown), left=left, top=top
        )
        for index, (method, of_method) in enumerate(means.items()):
            shift = 0.5 * ((index + 0.5) / len(means) - 0.5)
            rows = [row for row, model in enumerate(shown) if model in of_method]
            if not rows:
                continue
            axes.plot(
                [100 * of_method[shown[row]] for row in rows],
                [row + shift for row in rows],
                linestyle="none",
                color=SERIES[index % NUM_COLORS],
                marker=MARKERS[plot.marker_place(index)],
                markersize=4.5,
                label=labels.get(method, method),
                gid=f"points-{index}",
            )
            titles[f"points-{index}"] = [
                f"{shown[row]}{f', {method}' * bool(method)}: {percent(of_method[shown[row]], 1)} %"
                for row in rows
            ]
            numbers += [(shown[row], method, of_method[shown[row]]) for row in rows]
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("mean over targets, percent" if is_mean else "score, percent")
        if len(means) > 1:  # put the legend above the plot: inside, its markers look like means
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=len(means),
                borderaxespad=0.2,
                frameon=False,
                fontsize=8,
            )
        svg = plot.to_svg(figure, name, titles)
    counts = sorted({len(matrix.targets) for matrix in complete.values() if matrix.targets})
    targets = " to ".join(map(str, [counts[0], *counts[1:][-1:]]))
    only = next(iter(means))
    method = f"{only}, " if len(means) == 1 and only else ""
    order = ", ordered by each model's best mean" if len(means) > 1 and len(best) > 1 else ""
    some = f", the best {MAX_MODELS} of {len(best):,} models" if len(best) > MAX_MODELS else ""
    return Panel(
        name,
        "Mean over targets" if is_mean else f"Score on {next(iter(targets_of))}",
        f"{method}{targets} target{'s' * (counts[-1] > 1)}{some}{order}"
        if is_mean
        else f"{method}{some}".strip(", "),
        "Mean score over the targets" if is_mean else "Score on the target",
        svg,
        plot.to_csv_text(("model", "method", "mean"), numbers),
        wide=True,
    )


def _labels(targets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return legend entries of methods that ran on different targets, such as `full on pets`."""
    places = {
        method: of_method[0] if len(of_method) == 1 else f"{len(of_method):,} targets"
        for method, of_method in targets.items()
    }
    return {method: f"{method} on {place}" for method, place in places.items()}
