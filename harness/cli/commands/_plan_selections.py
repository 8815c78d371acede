"""What selections by scores cost, in pretrainings and hours, for `harness plan`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from harness.cli.commands._plan_estimate import estimate_of
from harness.cli.commands._plan_tables import FINISHED
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.stage_state import State


def print_selections(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> None:
    """Print a line per method of scoring, and one for the models that score."""
    from harness.cli import console

    for head, text in lines(plan, states, folders):
        click.echo(console.hanging(f"{head}: ", text))


def lines(
    plan: "Matrix", states: "dict[str, State]", folders: Folders
) -> Iterator[tuple[str, str]]:
    """Describe the pretrainings of selections; nothing for a recipe without any."""
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
        + _hours(scoring, plan, states, folders),
    )
    for method, names in methods.items():
        own = [
            stage for stage in trained if "role" not in stage.axes and stage.axes["subset"] in names
        ]
        num_targets = len(targets[method])
        per_target = (
            f" for {num_targets} targets, {len(own) // num_targets} for each"
            if num_targets > 1
            else ""
        )
        noun = "pretraining" if len(own) == 1 else "pretrainings"
        yield method, f"{len(own)} {noun}{per_target}{_hours(own, plan, states, folders)}"


def _hours(
    stages: "list[Stage]", plan: "Matrix", states: "dict[str, State]", folders: Folders
) -> str:
    """Hours of the unfinished stages on one device, if they are known."""
    left = [stage for stage in stages if states[stage.key] not in FINISHED]
    found = estimate_of(replace(plan, stages=tuple(left)), states, folders)
    if not left or found.num_unknown:
        return ""
    return f", about {found.hours:.1f} hours of one device"
