"""Fetch the raw files of datasets, checked; say which ones a person has to place by hand."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from writers.dataset import DatasetSpec, Download


@click.command(short_help="Fetch the raw files of datasets; checksums verified.")
@click.argument("datasets", nargs=-1, required=True, metavar="NAME...|all")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HARNESS_RAW",
    default="./raw",
    metavar="DIR",
    show_default=True,
    show_envvar=True,
    help="Each dataset gets a folder in it.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be fetched, from where, of which size and checksum.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="For programs: {dataset: [{file, url, checksum, num_bytes, there}]}.",
)
def command(datasets: tuple[str, ...], root: Path, dry_run: bool, as_json: bool) -> None:
    """Fetch the raw files of the datasets NAME, or of all.

    A download that was cut goes on where it ended. A file has its name only when its checksum is right. What no host serves is
    named, with the place where a person has to put it; exit code 1 while something is missing.
    """
    from writers.errors import UserError

    root = root.expanduser()
    specs = _specs(datasets)
    if as_json:
        click.echo(
            json.dumps(
                {
                    spec.name: [
                        _entry(download, _folder(spec, root)) for download in spec.downloads
                    ]
                    for spec in specs
                },
                indent=1,
            )
        )
    if as_json or dry_run:
        for spec in [] if as_json else specs:
            _show(spec, _folder(spec, root))
        return
    _refuse_full_disk(specs, root)
    complete = True
    for spec in specs:
        try:
            complete &= _fetch_all(spec, _folder(spec, root))
        except UserError as error:
            if len(specs) == 1:
                raise
            complete = False
            click.secho(f"{spec.name}: {error}", fg="red", err=True)
    sys.exit(0 if complete else 1)


def _specs(datasets: tuple[str, ...]) -> "list[DatasetSpec]":
    """Of the datasets asked for; of each folder of files that several share, the first."""
    from writers import names

    package = "writers.datasets"
    asked = names.names(package) if "all" in datasets else datasets
    specs = [names.find(package, name, "dataset").SPEC for name in asked]
    if "all" in datasets:
        specs = list(
            {spec.folder or spec.name: spec for spec in reversed(specs) if spec.downloads}.values()
        )[::-1]
    return specs


def _folder(spec: "DatasetSpec", root: Path) -> Path:
    return root / (spec.folder or spec.name)


def _fetch_all(spec: "DatasetSpec", folder: Path) -> bool:
    """Whether all of it is there then."""
    from harness.cli import console
    from writers import download as fetching

    if spec.generated:
        click.echo(f"{spec.name} is made on first use; there is nothing to fetch.")
        return True
    missing = []
    for download in spec.downloads:
        if (
            not download.url and not (folder / download.file).exists()
        ):  # what a person has placed is checked and unpacked
            missing += [] if fetching.is_there(download, folder) else [download]
            continue
        with console.progress(f"{spec.name}: {download.file}", "bytes") as report:
            fetched = fetching.fetch(download, folder, report)
        click.echo(
            f"{folder / download.file}: {'fetched' if fetched else 'there already'}"
            f"{', checksum right' if download.checksum else ', no checksum is published'}"
        )
    if missing or not spec.downloads:
        click.echo(
            f"{spec.name} cannot be fetched as a whole. Place by hand:"
            if missing
            else f"{spec.name}: no host serves it to a program."
        )
        for download in missing:
            click.echo(f"  {folder / download.file}")
        _show_layouts(spec, folder)
    return not missing and bool(spec.downloads)


def _show(spec: "DatasetSpec", folder: Path) -> None:
    from writers import download as fetching

    click.echo(f"{spec.name}: {spec.title}; licence: {spec.licence or 'not stated'}; into {folder}")
    for download in spec.downloads:
        size = f"{download.num_bytes:,} bytes" if download.num_bytes else "size not published"
        there = ", there already" if fetching.is_there(download, folder) else ""
        source = download.url or (
            f"out of {download.inside}" if download.inside else "to be placed by hand"
        )
        click.echo(
            f"  {download.file}  {size}{there}\n    {source}\n    {download.checksum or 'no checksum is published'}"
        )
    if (
        not all(download.url or download.inside for download in spec.downloads)
        or not spec.downloads
    ):
        _show_layouts(spec, folder)


def _show_layouts(spec: "DatasetSpec", folder: Path) -> None:
    click.echo(f"  Official: {spec.where}")
    if spec.metric != "map11":
        click.echo(
            f"  Mirrors: {folder}/train/<class>/*.jpg, with test/ and with or without val/, is read as well."
        )


def _entry(download: "Download", folder: Path) -> dict[str, Any]:
    from writers import download as fetching

    return {
        "file": str(folder / download.file),
        "url": download.url or None,
        "checksum": download.checksum or None,
        "num_bytes": download.num_bytes,
        "there": fetching.is_there(download, folder),
    }


def _refuse_full_disk(specs: "list[DatasetSpec]", root: Path) -> None:
    """Before hours of downloading, not after."""
    import shutil

    from writers import download as fetching
    from writers.errors import UserError

    needed = sum(
        download.num_bytes or 0
        for spec in specs
        for download in spec.downloads
        if download.url and not fetching.is_there(download, _folder(spec, root))
    )
    place = next(
        folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{needed / 1e9:,.1f} GB are to be fetched, and the disk of {root} has {free / 1e9:,.1f} GB left.",
            "Free some space, name fewer datasets, or another --root.",
        )
