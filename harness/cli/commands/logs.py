"""Show the log of a stage."""

import json
import shlex
import time
from pathlib import Path

import click

from harness.cli.number_types import IntType
from harness.cli.options import folder_options
from harness.system.folders import Folders
from writers.text_names import counted, printable, printable_lines

POLL_EVERY_S = 0.5
MAX_KEYS = 8  # keys in the message that several stages match
LIST_STAGES = "List the stages of a recipe: harness plan RECIPE --stages"


@click.command(short_help="Show the log of a stage, and its error if it failed.")
@click.argument("stage", metavar="STAGE")
@folder_options
@click.option(
    "--follow",
    is_flag=True,
    help="Show new lines until the stage ends; Ctrl-C stops.",
)
@click.option(
    "--lines",
    "num_lines",
    type=IntType(min=1),
    metavar="N",
    help="Show only the last N lines.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: name, folder, lines, and the error."
)
def command(
    stage: str, folders: Folders, follow: bool, num_lines: int | None, as_json: bool
) -> None:
    """Show the log of STAGE, and its error if it failed.

    STAGE is a name as shown by harness plan --stages, a key, or the beginning of a key.

    Example: harness logs pretrain/in900/resnet18/eps0/seed0 --follow
    """
    from harness.cli import console
    from harness.runner import stage_state
    from harness.runner.context import EPOCHS_FILE
    from writers import lease

    folder = find_stage(stage, folders)
    log = folder / "log.txt"
    text = _read(log, 0)
    if as_json:
        _print_json(folder, text, num_lines, follow)
        return
    # A log may quote any file, so do not send its escape sequences to the terminal.
    if shown := printable_lines(text.decode(errors="replace")).rstrip("\n"):
        click.echo("\n".join(shown.split("\n")[-num_lines:]) if num_lines else shown)
    elif not follow:
        epochs = folder / EPOCHS_FILE
        place = f" Loss and accuracy of each epoch: {epochs}" if epochs.is_file() else ""
        console.err().print(f"The log is empty.{place}", soft_wrap=True)
    position, was_held, is_over = len(text), False, not follow
    while not is_over:
        # Check the lease before reading the log, so that the last lines are not missed.
        is_held = lease.is_held(folder)
        is_over = not is_held and (
            was_held or stage_state.has_result(folder) or (folder / stage_state.ERROR_FILE).exists()
        )
        was_held = was_held or is_held
        more = _read(log, position)
        position += len(more)
        click.echo(printable_lines(more.decode(errors="replace")), nl=False)
        if not is_over:
            time.sleep(POLL_EVERY_S)
    if (folder / stage_state.ERROR_FILE).exists():
        error = (folder / stage_state.ERROR_FILE).read_text(errors="replace").rstrip()
        click.secho(printable_lines(error), fg="red", err=True)


def _print_json(folder: Path, text: bytes, num_lines: int | None, follow: bool) -> None:
    from harness.runner import stage_state
    from writers.errors import UserError

    if follow:
        raise UserError("--json has no effect with --follow.", "Remove one of them.")
    lines = text.decode(errors="replace").splitlines()
    error = folder / stage_state.ERROR_FILE
    record = {
        "name": json.loads((folder / "stage.json").read_text())["name"],
        "folder": str(folder),
        "lines": lines[-num_lines:] if num_lines else lines,
        "error": error.read_text(errors="replace") if error.exists() else None,
    }
    click.echo(json.dumps(record, indent=1))


def _read(log: Path, position: int) -> bytes:
    """Read the log from a byte position; empty if there is no log yet."""
    try:
        with log.open("rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""


def find_stage(name_or_key: str, folders: Folders) -> Path:
    """Find the folder of a stage by its name, its key or the beginning of its key.

    Raises:
        UserError: No stage or several match.
    """
    from writers import names
    from writers.errors import UserError

    if not name_or_key:
        raise UserError("An empty text names no stage.", LIST_STAGES)
    matches, name_of = [], {}
    for spec in (folders.runs / "stages").glob("*/*/stage.json"):
        if spec.parent.name.startswith(name_or_key):
            matches.append(spec.parent)
        else:
            try:
                name_of[spec.parent] = str(json.loads(spec.read_text())["name"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
    matches = matches or [folder for folder, name in name_of.items() if name == name_or_key]
    if not matches:
        near = names.nearest(name_or_key, sorted(set(name_of.values())))
        hint = f"Did you mean {' or '.join(near)}?" if near else LIST_STAGES
        message = f"No stage {name_or_key} has been started in {folders.runs}."
        if _is_recipe(name_or_key):
            message = f"{name_or_key} is a recipe, not a stage."
            hint = f"List its stages: harness plan {shlex.quote(name_or_key)} --stages"
        raise UserError(message, hint)
    # Stages that ran with older code or settings have the same name and other keys.
    if len(matches) > 1:
        newest_first = sorted(matches, key=lambda folder: -folder.stat().st_mtime)
        keys = ", ".join(_key_and_recipe(folder) for folder in newest_first[:MAX_KEYS])
        others = f", and {len(matches) - MAX_KEYS:,} more" if len(matches) > MAX_KEYS else ""
        raise UserError(
            f"{counted(len(matches), 'stage')} match {name_or_key}.",
            f"Use the key of one, newest first: {keys}{others}",
        )
    return matches[0]


def _is_recipe(path_or_name: str) -> bool:
    from harness.config import recipe_files

    path = Path(path_or_name)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    return is_file or path_or_name in recipe_files.available()


def _key_and_recipe(folder: Path) -> str:
    """Format a stage's key, with the recipe that started it: 577a4299f514 (fewer_classes)."""
    try:
        recipe = Path(json.loads((folder / "stage.json").read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name
    return f"{folder.name} ({printable(recipe.stem.rpartition('-')[0])})"
