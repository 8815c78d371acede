"""Show what a stage has printed."""

import time
from pathlib import Path

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

LOOK_EVERY_S = 0.5


@click.command(short_help="Show what a stage has printed, and its error if it failed.")
@click.argument("stage", metavar="STAGE")
@folder_options
@click.option(
    "--follow",
    is_flag=True,
    help="Stay and show more as it comes, until the stage has ended; Ctrl-C ends it.",
)
@click.option(
    "--lines", "num_lines", type=click.IntRange(min=1), metavar="N", help="Only the last N lines."
)
def command(stage: str, folders: Folders, follow: bool, num_lines: int | None) -> None:
    """Show what STAGE has printed, and its error if it failed.

    STAGE is a name as `harness plan --stages` shows it, a key, or the first digits of one.
    """
    from harness.runner import lease
    from harness.runner import stage_state as done

    folder = _find(stage, folders)
    log = folder / "log.txt"
    text = _read(log, 0)
    if shown := text.decode(errors="replace"):
        click.echo("\n".join(shown.splitlines()[-num_lines:]) if num_lines else shown.rstrip("\n"))
    place, was_held, is_over = len(text), False, not follow
    while not is_over:
        is_held = lease.is_held(folder)  # asked before all else, so that its last words are read
        is_over = not is_held and (
            was_held or done.has_result(folder) or (folder / done.ERROR_FILE).exists()
        )
        was_held = was_held or is_held
        more = _read(log, place)
        place += len(more)
        click.echo(more.decode(errors="replace"), nl=False)
        if not is_over:
            time.sleep(LOOK_EVERY_S)
    if (folder / done.ERROR_FILE).exists():
        click.secho((folder / done.ERROR_FILE).read_text().rstrip(), fg="red", err=True)


def _read(log: Path, place: int) -> bytes:
    """What the log has from `place` on; nothing where the stage has not begun."""
    try:
        with log.open("rb") as file:
            file.seek(place)
            return file.read()
    except FileNotFoundError:
        return b""


def _find(asked: str, folders: Folders) -> Path:
    """The folder of the one stage that is meant. Raises UserError where none or several are."""
    import json

    from writers import names
    from writers.errors import UserError

    found, known = [], {}
    for orders in (folders.runs / "stages").glob("*/*/stage.json"):
        if orders.parent.name.startswith(asked):
            found.append(orders.parent)
        else:
            try:
                known[orders.parent] = str(json.loads(orders.read_text())["name"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
    found = found or [folder for folder, name in known.items() if name == asked]
    if not found:
        near = names.nearest(asked, sorted(set(known.values())))
        hint = (
            f"Did you mean {' or '.join(near)}?"
            if near
            else "harness plan RECIPE --stages names those of a recipe."
        )
        raise UserError(f"No stage {asked} has been started in {folders.runs}.", hint)
    if (
        len(found) > 1
    ):  # an older version of the code or of the settings leaves an older stage of the same name
        keys = ", ".join(
            folder.name for folder in sorted(found, key=lambda folder: -folder.stat().st_mtime)
        )
        raise UserError(
            f"{len(found)} stages are called {asked}.",
            f"Say the key of one; the newest first: {keys}.",
        )
    return found[0]
