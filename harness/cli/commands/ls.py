"""List what there is to name in a recipe or a command."""

import json
from typing import TYPE_CHECKING

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

if TYPE_CHECKING:
    from rich.console import Console


@click.command(short_help="List the names there are: datasets, models and so on.")
@click.argument("kind", required=False, metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="For programs: {kind: {name: line}}.")
@folder_options
def command(kind: str | None, as_json: bool, folders: Folders) -> None:
    """List the names that there are, of one KIND or of all.

    KIND: datasets, subsets, models, methods, scores, backends, launchers or recipes.

    harness ls datasets says of each its splits, classes, metric and licence, and what of it is on this machine.
    """
    from harness.cli import catalogue, console
    from writers import names

    if kind is not None and kind not in catalogue.KINDS:
        raise names.unknown("catalogue", kind, catalogue.KINDS)
    found = {one: catalogue.entries(one) for one in ([kind] if kind else catalogue.KINDS)}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    terminal = console.out()
    if kind == "datasets":
        _print_datasets(terminal, folders)
        return
    for one, lines in found.items():
        if kind is None:
            terminal.print(f"[bold]{one}[/bold]")
        width = max(map(len, lines), default=0)
        for name, line in lines.items():
            terminal.print(f"  {name:{width}}  {line}".rstrip(), markup=False, soft_wrap=True)


def _print_datasets(terminal: "Console", folders: Folders) -> None:
    from writers import names

    specs = [
        names.find("writers.datasets", name, "dataset").SPEC
        for name in names.names("writers.datasets")
    ]
    rows = [("", "train", "val", "test", "classes", "metric", "raw", "betons", "licence")]
    for spec in specs:
        sizes = [
            f"{spec.split_sizes[split]:,}" if split in spec.split_sizes else ""
            for split in ("train", "val", "test")
        ]
        raw = folders.raw / (spec.folder or spec.name)
        there = (
            "made"
            if spec.generated
            else "yes"
            if raw.is_file() or (raw.is_dir() and any(raw.iterdir()))
            else ""
        )
        betons = sum(1 for _ in folders.data.glob(f"{spec.name}-*/*.beton"))
        rows.append(
            (
                spec.name,
                *sizes,
                str(spec.num_classes or ""),
                spec.metric,
                there,
                str(betons or ""),
                spec.licence,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(width) if 1 <= number <= 4 or number == 7 else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminal.print("  ".join(cells).rstrip(), markup=False, soft_wrap=True)
    terminal.print(
        "\nval: where none is published, `val:` of a recipe or --val carves it out of train. raw: in "
        f"{folders.raw}. betons: files in {folders.data}.",
        markup=False,
        soft_wrap=True,
    )
