"""Ask the runs of a recipe to stop."""

import time

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders

PATIENCE_S = 60.0


@click.command(short_help="Stop a recipe's runs, on whichever host; what runs saves its state.")
@recipe_argument
@folder_options
def command(recipe_name: str, overrides: tuple[str, ...], folders: Folders) -> None:
    """Stop every `harness run` of RECIPE, as Ctrl-C there would: what runs saves its state, and `harness run` goes on from it.

    Waits until none of its stages runs. A stage that another recipe's run works on goes on.
    """
    from harness.config import load as recipe
    from harness.matrix import expand as matrix
    from harness.runner import cancel, lease
    from harness.runner.executor import unfinished

    plan = matrix.expand(recipe.read(recipe_name, overrides))
    stages = {
        stage.name: stage.folder(folders.runs) for stage in unfinished(plan, folders).values()
    }
    running = [name for name, folder in stages.items() if lease.is_held(folder)]
    cancel.request(folders.runs, plan.recipe.name)
    click.echo(f"{len(running)} stages of {plan.recipe.name} run; their runs are asked to stop.")
    deadline = time.monotonic() + PATIENCE_S
    while running and time.monotonic() < deadline:
        time.sleep(0.5)
        running = [name for name in running if lease.is_held(stages[name])]
    for name in running:
        holder = lease.holder_of(stages[name])
        click.secho(
            f"{name} still runs"
            + (f", on {holder.host} as process {holder.pid}" if holder else "")
            + ": perhaps for another recipe.",
            fg="yellow",
            err=True,
        )
