"""Describe `.beton` files in a dataset card."""

from pathlib import Path

import click

from harness.cli.path_types import PathType


@click.command(short_help="Write the dataset card of betons: content, source, digests, license.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=PathType(exists=True, folder=False),
)
@click.option(
    "--out",
    type=PathType(folder=False, written=True),
    metavar="FILE",
    help="Write the card to this file, such as README.md. Default: print it.",
)
def command(files: tuple[Path, ...], out: Path | None) -> None:
    """Describe betons of one dataset, such as its splits, as Markdown.

    The card has classes, counts, encoding, digests, source and license notes. All of it comes from
    the manifests; no image is read.

    \b
    Examples:
    harness card data/pets-all/*.beton
    harness card data/pets-all/*.beton --out data/pets-all/README.md
    """
    from harness.system.atomic_write import write_atomically
    from writers.beton.card import card
    from writers.beton.store import read_manifest
    from writers.split_names import SPLITS

    manifests = [(file, read_manifest(file)) for file in files]
    order = {split: number for number, split in enumerate(SPLITS)}
    manifests.sort(key=lambda one: (order.get(one[1].split, len(order)), one[1].split))
    text = card(manifests)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(out)
