"""Stop the runs of a recipe."""

import json
import time

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders
from writers.text_names import counted

TIMEOUT_S = 60.0


@click.command(short_help="Stop a recipe's runs on all hosts; running stages save their state.")
@recipe_argument
@folder_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON: stopped and running stages.")
def command(recipe_name: str, overrides: tuple[str, ...], folders: Folders, as_json: bool) -> None:
    """Stop every `harness run` of RECIPE, as Ctrl-C would; `harness run` later resumes.

    Running stages save their state, and the command waits for them. A stage that is run by another
    recipe's run continues.

    Example: harness cancel robust_l2
    """
    from harness.config.load import read
    from harness.runner import cancel
    from harness.runner.executor import unfinished
    from harness.runner.inputs import expand_accepted
    from writers import lease

    plan = expand_accepted(read(recipe_name, overrides), folders.runs)
    stages = {
        stage.name: stage.folder(folders.runs) for stage in unfinished(plan, folders).values()
    }
    running = [name for name, folder in stages.items() if lease.is_held(folder)]
    found = running
    cancel.request(folders.runs, plan.recipe.name)
    if not as_json:
        click.echo(
            f"Stopping the runs of {counted(len(running), 'running stage')} of {plan.recipe.name}."
            if running
            else f"No stage of {plan.recipe.name} is running. A run that waits is stopped, too."
        )
    deadline = time.monotonic() + TIMEOUT_S
    while running and time.monotonic() < deadline:
        time.sleep(0.5)
        running = [name for name in running if lease.is_held(stages[name])]
    if as_json:
        stopped = [name for name in found if name not in running]
        click.echo(json.dumps({"stopped": stopped, "still_running": running}, indent=1))
    for name in running:
        holder = lease.holder_of(stages[name])
        click.secho(
            f"{name} is still running"
            + (f" on {holder.host} as process {holder.pid}" if holder else "")
            + ", perhaps for another recipe.",
            fg="yellow",
            err=True,
        )
