"""Fetch the raw files of datasets, verify checksums, and list files to place by hand."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from writers.dataset import DatasetSpec, Download

NOTHING = "{} is generated on first use; there is nothing to fetch."


@click.command(short_help="Download the raw files of datasets, and verify checksums.")
@click.argument("datasets", nargs=-1, required=True, metavar="NAME...|all")
@click.option(
    "--root",
    "--raw-dir",
    "root",
    type=PathType(file=False, written=True),
    envvar="HARNESS_RAW",
    default="./raw",
    metavar="DIR",
    show_default=True,
    show_envvar=True,
    help="Folder of raw downloads; each dataset gets a folder in it.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only list files with URL, size and checksum.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: {dataset: [{file, url, checksum, num_bytes, present}]}. Fetches nothing.",
)
def command(datasets: tuple[str, ...], root: Path, dry_run: bool, as_json: bool) -> None:
    """Fetch the raw files of the datasets NAME, or of all.

    An interrupted download resumes. A file gets its final name only after its checksum is
    verified. Files that no host serves are listed with the folder to place them in. The exit code
    is 1 while a file is missing.

    Example: harness download eurosat svhn --root raw
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
    """Return the specs of the named datasets.

    With `all`, datasets that share a folder of files are represented by the first of them, and
    datasets without a list of files are left out.
    """
    from writers import names

    package = "writers.datasets"
    wanted = names.names(package) if "all" in datasets else datasets
    specs = [names.find(package, name, "dataset").SPEC for name in wanted]
    if "all" in datasets:
        specs = list(
            {spec.folder or spec.name: spec for spec in reversed(specs) if spec.downloads}.values()
        )[::-1]
    return specs


def _folder(spec: "DatasetSpec", root: Path) -> Path:
    return root / (spec.folder or spec.name)


def _fetch_all(spec: "DatasetSpec", folder: Path) -> bool:
    """Fetch the files of a dataset.

    Returns False if a file is missing afterwards, or if the dataset has no list of files.
    """
    from harness.cli import console
    from writers.download import fetch, is_there

    if spec.generated:
        click.echo(NOTHING.format(spec.name))
        return True
    missing = []
    for download in spec.downloads:
        # Files placed by hand are verified and unpacked by `fetch`.
        if not download.url and not (folder / download.file).exists():
            missing += [] if is_there(download, folder) else [download]
            continue
        with console.progress(f"{spec.name}: {download.file}", "bytes") as report:
            fetched = fetch(download, folder, report)
        click.echo(
            f"{folder / download.file}: {'fetched' if fetched else 'already exists'}"
            f"{', checksum verified' if download.checksum else ', no published checksum'}"
        )
    if missing or not spec.downloads:
        click.echo(
            f"Some files of {spec.name} cannot be fetched. Place by hand:"
            if missing
            else f"{spec.name} cannot be fetched by a program."
        )
        for download in missing:
            click.echo(f"  {folder / download.file}")
        _show_layouts(spec, folder)
    return not missing and bool(spec.downloads)


def _show(spec: "DatasetSpec", folder: Path) -> None:
    from writers.download import is_there

    if spec.generated:
        click.echo(NOTHING.format(spec.name))
        return
    click.echo(f"{spec.name}: {spec.title}; license: {spec.license or 'not stated'}; into {folder}")
    for download in spec.downloads:
        size = f"{download.num_bytes:,} bytes" if download.num_bytes else "size not published"
        there = ", already exists" if is_there(download, folder) else ""
        source = download.url or (
            f"inside {download.inside}" if download.inside else "to be placed by hand"
        )
        click.echo(
            f"  {download.file}  {size}{there}\n    {source}\n"
            f"    {download.checksum or 'no published checksum'}"
        )
    if (
        not all(download.url or download.inside for download in spec.downloads)
        or not spec.downloads
    ):
        _show_layouts(spec, folder)


def _show_layouts(spec: "DatasetSpec", folder: Path) -> None:
    click.echo(f"  Official: {spec.where}")
    if spec.metric not in ("map11", "map50_11"):
        click.echo(
            f"  Mirrors: {folder}/train/<class>/*.jpg with test/, and optionally val/, is read too."
        )


def _entry(download: "Download", folder: Path) -> dict[str, Any]:
    from writers.download import is_there

    return {
        "file": str(folder / download.file),
        "url": download.url or None,
        "checksum": download.checksum or None,
        "num_bytes": download.num_bytes,
        "present": is_there(download, folder),
    }


def _refuse_full_disk(specs: "list[DatasetSpec]", root: Path) -> None:
    """Raise UserError if the files of known size do not fit, before hours of downloading."""
    import shutil

    from writers.download import is_there
    from writers.errors import UserError

    needed = sum(
        download.num_bytes or 0
        for spec in specs
        for download in spec.downloads
        if download.url and not is_there(download, _folder(spec, root))
    )
    place = next(
        folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{root} has {free / 1e9:,.1f} GB left, and the files have {needed / 1e9:,.1f} GB.",
            "Free some space, name fewer datasets, or choose another --root.",
        )
