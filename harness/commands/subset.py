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
              help="A beton with the model's classes, or the folder that holds one for the split.")
@click.option("--split", default="val", show_default=True)
@click.option("--resolution", type=click.IntRange(min=1), metavar="PIXELS", help="Default: the model's own.")
@click.option("--eval-crop", type=click.FloatRange(0, 1, min_open=True), default=224 / 256, show_default=True,
              help="Centre crop: share of the shorter side.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda:0")
@click.option("--json", "as_json", is_flag=True, help='{"classes" (hardest first), "accuracy", "num_images", ...}.')
def rank(checkpoint: Path, data: Path, split: str, resolution: int | None, eval_crop: float, batch_size: int, device: str,
         as_json: bool) -> None:
    """Rank a beton's classes by the model's accuracy on them, the hardest first.

    Prints a CSV file that a recipe can name: remove: {hardest: 100, by: ranking.csv}
    """
    from harness import environment, model
    from harness.train.ranking import rank_classes
    from loaders.plan import LoaderPlan
    from writers.errors import UserError
    from writers.store import open_beton

    beton = open_beton(data / f"{split}.beton" if data.is_dir() else data)
    classes = beton.manifest.classes
    classifier, about = model.load(checkpoint)
    if about["classes"] != classes:
        raise UserError(f"{checkpoint} was trained on {len(about['classes'])} classes, and {beton.path} has "
                        f"{len(classes)}, or others.", "Rank on a beton of the very classes that the model knows.")
    plan = LoaderPlan(beton.path, batch_size, resolution or about["resolution"], center_fraction=eval_crop, device=device,
                      num_threads=environment.num_cores())
    scores = rank_classes(classifier, plan, classes, source=str(checkpoint))
    ranking = scores.ranking
    if as_json:
        click.echo(json.dumps({"classes": ranking.classes, "accuracy": ranking.accuracy, "num_images": scores.num_images,
                               "source": ranking.source, "tie_break": ranking.tie_break}, indent=1))
        return
    click.echo(f"# accuracy of {ranking.source} on {beton.path}; ties by {ranking.tie_break}")
    click.echo("class,accuracy,mean_probability")
    for name in ranking.classes:
        click.echo(f"{_quoted(name)},{ranking.accuracy[name]:.6f},{scores.mean_probability[name]:.6f}")


def _quoted(name: str) -> str:
    """A CSV field."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"#') else name
