"""List files that are no longer needed, and delete them after confirmation."""

import json
import shutil
from collections import Counter
from pathlib import Path

import click

from harness.cli import completion
from harness.cli.options import folder_options
from harness.system.folders import Folders, user_cache
from writers.text_names import counted

# Temporary files that remain if a process is killed while writing, such as .model.pt.k3x_ab1q.
TEMPORARY = ".*.????????"


@click.command(short_help="List what may be deleted, with sizes; delete after confirmation.")
@click.argument("recipe_names", metavar="[RECIPE]...", nargs=-1, shell_complete=completion.recipes)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A --set option of an earlier run. The stages of each RECIPE are then looked up twice, "
    "with and without all --set options. May be repeated.",
)
@folder_options
@click.option("--all", "everything", is_flag=True, help="Consider all stages, of any recipe.")
@click.option(
    "--unused", is_flag=True, help="Also delete stages and .beton files that no named recipe needs."
)
@click.option("--yes", is_flag=True, help="Delete without confirmation.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: path, reason and bytes of each. Deletes only with --yes.",
)
def command(
    recipe_names: tuple[str, ...],
    overrides: tuple[str, ...],
    folders: Folders,
    everything: bool,
    unused: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """List what may be deleted, with sizes, and delete it after confirmation.

    These are checkpoints of finished stages and temporary files, of RECIPE or of all stages.

    With --unused, also list stages (and their .beton files) that no named recipe needs, such as
    those of older settings or code. Name every recipe whose results you want to keep. Stages run
    with --set are treated as unused unless the same --set is passed here:

    \b
    Examples:
    harness run demo --set seeds=[0,1,2]
    harness gc --unused demo --set seeds=[0,1,2]

    Running stages are not touched.
    """
    from harness.cli import console
    from writers.errors import UserError

    if unused and not recipe_names:
        raise UserError(
            "--unused needs the recipes whose results you want to keep.",
            "Name them: harness gc --unused demo my_recipe.yaml",
        )
    if not recipe_names and not everything:
        raise UserError(
            "Name a recipe, or use --all.",
            "For example: harness gc demo",
        )
    if overrides and not recipe_names:
        raise UserError(
            "--set has no effect without a recipe.",
            "Name the recipe: harness gc --unused demo --set seeds=[0,1,2]",
        )
    kept = _keys(recipe_names, overrides, folders)
    candidates = _unused(folders, kept) if unused else []
    unused_paths = {path for path, _ in candidates}
    candidates += [
        (path, reason)
        for path, reason in _scratch(folders, None if everything else kept)
        if unused_paths.isdisjoint(path.parents)
    ]
    if as_json:
        sizes = _sizes([path for path, _ in candidates])
        if yes:
            for path, _ in candidates:
                _delete(path)
        listed = [
            {"path": str(path), "reason": reason, "bytes": sizes[path]}
            for path, reason in candidates
        ]
        click.echo(json.dumps({"deleted": yes, "files": listed}, indent=1))
        return
    if not candidates:
        click.echo("Nothing to delete.")
        return
    sizes = _sizes([path for path, _ in candidates])
    terminal = console.out()
    for path, reason in sorted(candidates, key=lambda candidate: -sizes[candidate[0]]):
        terminal.print(
            f"{console.size(sizes[path]):>10}  {path}  ({reason})", markup=False, soft_wrap=True
        )
    terminal.print(
        f"{console.size(sum(sizes.values())):>10}  in {counted(len(candidates), 'entry')}",
        markup=False,
    )
    if not yes:
        click.confirm("Delete all of these?", abort=True)
    for path, _ in candidates:
        _delete(path)
    click.echo(f"Deleted {console.size(sum(sizes.values()))}.")


def _keys(recipe_names: tuple[str, ...], overrides: tuple[str, ...], folders: Folders) -> set[str]:
    """Return the keys of all stages of the recipes, as written and with the overrides.

    If inputs have changed since the last run, includes the keys that stages had in that run.
    """
    from harness.config.load import read
    from harness.runner import inputs

    changes: set[tuple[str, ...]] = {(), overrides}
    recipes = [read(name, change, user_cache()) for name in recipe_names for change in changes]
    matrices = [
        matrix
        for recipe in recipes
        for matrix in (
            inputs.expand_accepted(recipe, folders.runs),
            inputs.plan(recipe, folders).matrix,
        )
    ]
    return {stage.key for matrix in matrices for stage in matrix.stages}


def _delete(path: Path) -> None:
    from writers import lease

    if path.is_file():
        path.unlink(missing_ok=True)
        return
    if not (path / "stage.json").exists():
        shutil.rmtree(path)
        return
    # Another process may have started the stage in the meantime.
    with lease.hold(path) as held:
        if held is not None:
            shutil.rmtree(path)


def _scratch(folders: Folders, only: set[str] | None) -> list[tuple[Path, str]]:
    """List checkpoints of finished stages and temporary files, each with a reason.

    Args:
        folders: Folders of the runs.
        only: Keys of the stages to consider; None for all.
    """
    from harness.runner import stage_state
    from writers import lease

    candidates = []
    for folder in _stage_folders(folders, only):
        if lease.is_held(folder):
            continue
        places, checkpoints = [folder], folder / "checkpoints"
        if not stage_state.has_result(folder):
            places.append(checkpoints)
        elif checkpoints.is_dir():
            candidates.append((checkpoints, "checkpoints of a finished stage"))
        candidates += [(path, "temporary") for place in places for path in place.glob(TEMPORARY)]
    return candidates


def _unused(folders: Folders, kept: set[str]) -> list[tuple[Path, str]]:
    """List stages whose key is not in `kept`, and the folders of betons that they wrote.

    The name of a folder of betons ends with the key of the stage that wrote it.
    """
    from writers import lease

    candidates = []
    written: dict[str, list[Path]] = {}
    for path in sorted(folders.data.glob("*-*")):
        written.setdefault(path.name.rpartition("-")[2], []).append(path)
    for folder in _stage_folders(folders, None):
        if folder.name not in kept and not lease.is_held(folder):
            candidates.append((folder, "stage of no recipe"))
            candidates += [(path, "betons of no recipe") for path in written.get(folder.name, ())]
    return candidates


def _stage_folders(folders: Folders, only: set[str] | None) -> list[Path]:
    return [
        path
        for path in sorted((folders.runs / "stages").glob("*/*"))
        if path.is_dir() and (only is None or path.name in only)
    ]


def _sizes(paths: list[Path]) -> dict[Path, int]:
    """Return the bytes that deleting each file or folder frees.

    A beton that stages share is hard-linked; its bytes are counted only if all of its links are
    among the paths.
    """
    stats = {
        path: [
            file.stat()
            for file in ([path] if path.is_file() else path.rglob("*"))
            if file.is_file()
        ]
        for path in paths
    }
    num_names = Counter(
        (stat.st_dev, stat.st_ino) for file_stats in stats.values() for stat in file_stats
    )
    sizes = {}
    for path, file_stats in stats.items():
        sizes[path] = 0
        for stat in file_stats:
            file = stat.st_dev, stat.st_ino
            sizes[path] += stat.st_size if num_names[file] == stat.st_nlink else 0
            num_names[file] = 0  # its other links add nothing
    return sizes
