"""Tables and the graph of a plan, for `harness plan`."""

import json
from collections import Counter
from typing import TYPE_CHECKING

import click

from writers.text_names import printable

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix
    from harness.runner.stage_state import State

STATES: "tuple[State, ...]" = ("done", "running", "failed", "left", "skipped")
# States of stages that need no more work.
FINISHED = ("done", "skipped")
COLORS = {
    "done": "palegreen",
    "running": "lightskyblue",
    "failed": "salmon",
    "left": "white",
    "skipped": "lightgrey",
}


def counts_by_kind(plan: "Matrix", states: "dict[str, State]") -> dict[str, Counter[str]]:
    """Return kind -> state -> number of stages."""
    counts: dict[str, Counter[str]] = {}
    for stage in plan.stages:
        counts.setdefault(stage.kind, Counter())[states[stage.key]] += 1
    return counts


def print_tables(plan: "Matrix", states: "dict[str, State]", show_stages: bool) -> None:
    """Print the values of each axis of the recipe, and the number of stages by kind and state.

    Args:
        plan: Stages of the recipe.
        states: Key of each stage -> state.
        show_stages: Also list every stage.
    """
    from rich.table import Table
    from rich.text import Text

    from harness.cli import console
    from harness.matrix.left_out import left_out

    terminal = console.out()
    recipe = plan.recipe
    terminal.print(Text.assemble((recipe.name, "bold"), f"  {printable(recipe.question)}"))
    axes: dict[str, list[str]] = {}
    if recipe.subsets:
        axes = {
            "subsets": [subset.name for subset in recipe.subsets],
            "archs": list(recipe.archs),
            **({"variants": list(recipe.variants)} if recipe.variants else {}),
            "eps": [f"{eps:g}" for eps in recipe.eps],
        }
    axes |= {"models": [model.name for model in recipe.models]} if recipe.models else {}
    axes |= {
        "seeds": [str(seed) for seed in recipe.seeds],
        "targets": [target.label for target in recipe.targets],
        "methods": list(recipe.methods),
    }
    if recipe.shortlist is not None:
        shortlist = recipe.shortlist
        axes["shortlist"] = [
            f"{', '.join(shortlist.methods)}: only for the best {shortlist.best} by {shortlist.by}"
        ]
    axes |= (
        {"scores": ["all"] if recipe.scores == "all" else list(recipe.scores)}
        if recipe.scores
        else {}
    )
    for axis, values in axes.items():
        head = f"  {axis:8} {len(values):3}  "
        click.echo(console.hanging(head, ", ".join(map(str, values))))
    for pairs in left_out(recipe):
        click.echo(console.hanging("  ", str(pairs)))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stages")
    for column in ("all", *STATES):
        table.add_column(column, justify="right")
    total: Counter[str] = Counter()
    for kind, counts in counts_by_kind(plan, states).items():
        total.update(counts)
        table.add_row(kind, *_row(counts))
    table.add_row("total", *_row(total), style="bold")
    terminal.print(table)
    if show_stages:
        for stage in plan.stages:
            terminal.print(
                f"{states[stage.key]:8} {stage.key}  {stage.name}", markup=False, soft_wrap=True
            )


def _row(counts: Counter[str]) -> list[str]:
    return [str(counts.total()), *(str(counts[state] or "") for state in STATES)]


def dot(plan: "Matrix", states: "dict[str, State]") -> str:
    """Draw a box per stage, colored by state, with arrows to the stages that need it."""
    boxes = [
        f'  "{stage.key}" [label={json.dumps(stage.name)}, fillcolor={COLORS[states[stage.key]]}];'
        for stage in plan.stages
    ]
    arrows = [
        f'  "{need}" -> "{stage.key}";'
        for stage in plan.stages
        for need in sorted({need.key for need in stage.waits_for})
    ]
    return "\n".join(
        [
            f"digraph {plan.recipe.name} {{",
            "  rankdir=LR;",
            "  node [shape=box, style=filled];",
            *boxes,
            *arrows,
            "}",
        ]
    )
