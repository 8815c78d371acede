"""Subsets of classes: show one, or rank a dataset's classes by how well a model knows them."""

import json
from pathlib import Path

import click


@click.group(short_help="Show a subset's classes, or rank classes by a model.")
def command() -> None:
    """Which source classes: the named subsets, and rankings to make others from."""


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help='{"name", "num_classes", "digest", "classes"}.')
def show(name: str, as_json: bool) -> None:
    """Show the classes of the subset NAME, a line each, in label order."""
    from writers.errors import UserError
    from writers.subset import Subset, named

    classes = named(name).classes
    if classes is None:
        raise UserError(f"The classes of '{name}' are those of the source; only a beton's manifest can say which.")
    subset = Subset(name, classes)
    if as_json:
        click.echo(json.dumps({"name": name, "num_classes": len(classes), "digest": subset.digest,
                               "classes": list(classes)}, indent=1))
    else:
        click.echo(f"# {name}: {len(classes)} classes, digest {subset.digest}")
        click.echo("\n".join(classes))


@command.command("rank")
@click.option("--checkpoint", required=True, metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A model.pt that a pretrain stage has left.")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), metavar="BETON|DIR",
              help="A beton, or a folder with one of the split's name.")
@click.option("--split", default="val", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def rank(checkpoint: Path, data: Path, split: str, as_json: bool) -> None:
    """Rank the classes of a beton by the model's accuracy on them, hardest first."""
    raise NotImplementedError
