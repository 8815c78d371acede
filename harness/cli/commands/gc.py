"""Say what may be deleted, and delete it when told to."""

import shutil
from collections import Counter
from pathlib import Path

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

TEMPORARY = ".*.????????"  # what a write leaves that was killed: .model.pt.k3x_ab1q


@click.command(short_help="What may be deleted, with sizes; deletes only after a yes.")
@click.argument("recipe_names", metavar="[RECIPE]...", nargs=-1)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="What a run was given with --set: every RECIPE counts with it, too, beside as it is written. May be given "
    "again.",
)
@folder_options
@click.option(
    "--all", "everything", is_flag=True, help="Of every stage, whatever recipe it belongs to."
)
@click.option(
    "--unused", is_flag=True, help="Also stages and betons that none of the named recipes needs."
)
@click.option("--yes", is_flag=True, help="Delete without asking.")
def command(
    recipe_names: tuple[str, ...],
    overrides: tuple[str, ...],
    folders: Folders,
    everything: bool,
    unused: bool,
    yes: bool,
) -> None:
    """Show what of RECIPE (or of all stages) nothing needs again: checkpoints of finished stages, temporary files.

    With --unused, also stages of none of the named recipes, with their betons: those of older settings and code. Name every
    recipe whose results you keep. Stages that were run with --set count as those of no recipe, unless you say it again:

    
    harness run demo --set seeds=[0,1,2]
    harness gc --unused demo --set seeds=[0,1,2]

    What runs is left alone.
    """
    from harness.cli import console
    from writers.errors import UserError

    if unused and not recipe_names:
        raise UserError(
            "--unused goes with the recipes whose results you keep.",
            "harness gc --unused demo my_recipe.yaml",
        )
    if not recipe_names and not everything:
        raise UserError(
            "Name a recipe, or say --all.",
            "harness gc demo shows what of the recipe demo is scratch.",
        )
    if overrides and not recipe_names:
        raise UserError(
            "--set has no effect without a recipe.", "harness gc --unused demo --set seeds=[0,1,2]"
        )
    kept = _keys(recipe_names, overrides)
    not_needed = _unused(folders, kept) if unused else []
    going = {path for path, _ in not_needed}
    found = not_needed + [
        (path, why)
        for path, why in _scratch(folders, None if everything else kept)
        if going.isdisjoint(path.parents)
    ]
    if not found:
        click.echo("Nothing to delete.")
        return
    sizes = _sizes([path for path, _ in found])
    terminal = console.out()
    for path, why in sorted(found, key=lambda one: -sizes[one[0]]):
        terminal.print(
            f"{sizes[path] / 1e6:10,.1f} MB  {path}  ({why})", markup=False, soft_wrap=True
        )
    terminal.print(
        f"{sum(sizes.values()) / 1e6:10,.1f} MB  in {len(found)} files and folders", markup=False
    )
    if not yes:
        click.confirm("Delete all of these?", abort=True)
    for path, _ in found:
        _delete(path)
    click.echo(f"Deleted {sum(sizes.values()) / 1e6:,.1f} MB.")


def _keys(recipe_names: tuple[str, ...], overrides: tuple[str, ...]) -> set[str]:
    """Of all stages of the recipes, as they are written and, where there are overrides, with these as well."""
    from harness.config import load as recipe
    from harness.matrix import expand as matrix

    changes: set[tuple[str, ...]] = {(), overrides}
    recipes = [recipe.read(name, change) for name in recipe_names for change in changes]
    return {stage.key for one in recipes for stage in matrix.expand(one).stages}


def _delete(path: Path) -> None:
    from harness.runner import lease

    if path.is_file():
        path.unlink(missing_ok=True)
        return
    if not (path / "stage.json").exists():
        shutil.rmtree(path)
        return
    with lease.hold(path) as held:  # somebody may have started it while we asked
        if held is not None:
            shutil.rmtree(path)


def _scratch(folders: Folders, only: set[str] | None) -> list[tuple[Path, str]]:
    """Checkpoints of stages that are done, and what an interrupted write left, of the keys in `only` (None: of all)."""
    from harness.runner import lease
    from harness.runner import stage_state as done

    found = []
    for folder in _stage_folders(folders, only):
        if lease.is_held(folder):
            continue
        places, checkpoints = [folder], folder / "checkpoints"
        if not done.has_result(folder):
            places.append(checkpoints)
        elif checkpoints.is_dir():
            found.append((checkpoints, "checkpoints of a finished stage"))
        found += [(path, "temporary") for place in places for path in place.glob(TEMPORARY)]
    return found


def _unused(folders: Folders, kept: set[str]) -> list[tuple[Path, str]]:
    """Stages, and folders of betons that such a stage wrote, of no key in `kept`."""
    from harness.runner import lease

    found = []
    for folder in _stage_folders(folders, None):
        if folder.name not in kept and not lease.is_held(folder):
            found.append((folder, "stage of no recipe"))
            if folder.parent.name == "write":
                found += [
                    (path, "betons of no recipe") for path in folders.data.glob(f"*-{folder.name}")
                ]
    return found


def _stage_folders(folders: Folders, only: set[str] | None) -> list[Path]:
    return [
        path
        for path in sorted((folders.runs / "stages").glob("*/*"))
        if path.is_dir() and (only is None or path.name in only)
    ]


def _sizes(paths: list[Path]) -> dict[Path, int]:
    """Bytes that go with each file or folder. A file of several names (a beton that was linked) goes with the last of them."""
    stats = {
        path: [
            file.stat()
            for file in ([path] if path.is_file() else path.rglob("*"))
            if file.is_file()
        ]
        for path in paths
    }
    names = Counter((stat.st_dev, stat.st_ino) for found in stats.values() for stat in found)
    sizes = {}
    for path, found in stats.items():
        sizes[path] = 0
        for stat in found:
            file = stat.st_dev, stat.st_ino
            sizes[path] += stat.st_size if names[file] == stat.st_nlink else 0
            names[file] = 0  # counted
    return sizes
