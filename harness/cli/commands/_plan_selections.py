"""Cost of subsets that are selected by scores, in pretrainings and hours, for `harness plan`."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from harness.system.folders import Folders
from writers.text_names import counted

if TYPE_CHECKING:
    from harness.estimate.calibration import Calibration
    from harness.estimate.prediction import Predictor
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage


def print_selections(
    plan: "Matrix",
    left: "dict[str, Stage]",
    folders: Folders,
    known: "Calibration | None",
    predict: "Predictor | None",
) -> None:
    """Print a line per method of scoring, and one for the models that are trained to score.

    Args:
        plan: Stages of the recipe.
        left: Unfinished stages by key.
        folders: Folders of the runs.
        known: Times of steps on this machine; None if none were measured.
        predict: Predicts the time of other stages; None if all stages are finished.
    """
    from harness.cli import console

    for head, text in _lines(plan, left, folders, known, predict):
        click.echo(console.hanging(f"{head}: ", text))


def _lines(
    plan: "Matrix",
    left: "dict[str, Stage]",
    folders: Folders,
    known: "Calibration | None",
    predict: "Predictor | None",
) -> Iterator[tuple[str, str]]:
    """Yield head and text of each line; none if no subset is selected by scores."""
    trained = [stage for stage in plan.stages if stage.kind == "pretrain"]
    scoring = [stage for stage in trained if "role" in stage.axes]
    methods: dict[str, set[str]] = {}
    targets: dict[str, set[str]] = {}
    for subset in plan.recipe.subsets:
        for request in subset.requests:
            methods.setdefault(request.method, set()).add(subset.name)
            targets.setdefault(request.method, set()).update(request.targets)
    if not methods:
        return
    roles = Counter(stage.axes["role"] for stage in scoring)
    described = ", ".join(f"{number} {role}" for role, number in roles.items())
    yield (
        "pretrainings",
        f"{len(trained)}, of which {len(scoring)} score classes or images ({described})"
        + _hours(scoring, left, folders, known, predict),
    )
    for method, names in methods.items():
        own = [
            stage for stage in trained if "role" not in stage.axes and stage.axes["subset"] in names
        ]
        num_targets = len(targets[method])
        per_target = (
            f" for {counted(num_targets, 'target')}, {len(own) // num_targets} for each"
            if num_targets > 1
            else ""
        )
        noun = "pretraining" if len(own) == 1 else "pretrainings"
        yield method, f"{len(own)} {noun}{per_target}{_hours(own, left, folders, known, predict)}"


def _hours(
    stages: "list[Stage]",
    left: "dict[str, Stage]",
    folders: Folders,
    known: "Calibration | None",
    predict: "Predictor | None",
) -> str:
    """Format the hours of the unfinished stages; "" if they are neither known nor all predicted."""
    from harness.cli.commands._plan_estimate import work_time
    from harness.estimate.estimate import estimate

    unfinished = {stage.key: stage for stage in stages if stage.key in left}
    found = estimate(unfinished, folders.runs, known, predict)
    if not unfinished or found.num_unknown > found.num_predicted:
        return ""
    parts = [f"{work_time(found.hours)} of one device"] if found.hours else []
    if found.predicted_for:
        parts.append(f"{work_time(found.predicted_gpu_hours, 'GPU-')} (predicted)")
    return f", about {' and '.join(parts)}" if parts else ""
