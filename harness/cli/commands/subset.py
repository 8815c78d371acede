"""Subsets of classes: show one, or rank a dataset's classes by how well a model knows them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.modeling.classifier import Classifier
    from loaders.plan import LoaderPlan
    from writers.beton.store import Manifest
    from writers.subset.spec import Subset, SubsetSpec


@click.group(short_help="Show a subset's classes, or rank classes by a model.")
def command() -> None:
    """Which source classes: the named subsets, and rankings to make others from."""


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--beton",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Of this beton's classes and images, counting both. Default: of ImageNet's classes.",
)
@click.option(
    "--map",
    "as_map",
    is_flag=True,
    help="Print lines of class,label, which a step reads: coarsen: {map: FILE}.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='{"name", "num_classes", "num_images" with --beton, "digest", "classes"}.',
)
def show(name: str, beton: Path | None, as_map: bool, as_json: bool) -> None:
    """Show the labels of a subset in their order, and what people call them.

    NAME is one of harness ls subsets; FILE is YAML, of steps, or text, with a class a line.
    """
    from writers.errors import UserError
    from writers.subset import spec as subset
    from writers.subset import wordnet

    spec = subset.named(name)
    if spec.is_everything and beton is None:
        raise UserError(
            f"The classes of '{name}' are those of the source.", "Name a beton of it: --beton FILE."
        )
    found, num_images = _resolved(spec, beton)
    if as_json:
        content: dict[str, object] = {"name": found.name, "num_classes": len(found.classes)}
        content |= {"num_images": num_images} if num_images is not None else {}
        click.echo(
            json.dumps(
                {**content, "digest": found.digest, "classes": list(found.classes)}, indent=1
            )
        )
        return
    if as_map:
        for label, group in zip(
            found.classes, found.groups or [(one,) for one in found.classes], strict=True
        ):
            for one in group:
                click.echo(f"{_quoted(one)},{_quoted(label)}")
        return
    of_images = f", {num_images:,} images" if num_images is not None else ""
    click.echo(f"# {found.name}: {len(found.classes)} classes{of_images}, digest {found.digest}")
    sizes = {label: len(group) for label, group in zip(found.classes, found.groups, strict=False)}
    for label in found.classes:
        merged = f"  ({sizes[label]} classes)" if sizes.get(label, 1) > 1 else ""
        click.echo(f"{label}  {wordnet.words(label)}{merged}".rstrip())


@command.command("make")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml")
@click.option(
    "--step",
    "steps",
    multiple=True,
    required=True,
    metavar="YAML",
    help="One step, such as 'remove: {hardest: 100, by: resnet18_val}'; in order, as many as there are.",
)
@click.option(
    "--beton",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Try it on this beton. Default: on ImageNet's classes.",
)
def make(file: Path, steps: tuple[str, ...], beton: Path | None) -> None:
    """Write a subset to FILE.yaml, out of steps, and say what it comes to.

    \b
    harness subset make dogs.yaml --step 'under: n02084071' --step 'per_class: {images: 100}'
    harness write-beton --subset dogs.yaml --source imagenet/
    """
    from writers.errors import UserError
    from writers.subset import spec as subset

    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} is not named as YAML.", "Call it something.yaml.")
    if file.exists():
        raise UserError(f"{file} is there already.", "Remove it, or choose another name.")
    try:
        file.write_text("steps:\n" + "".join(f"  - {one}\n" for one in steps))
        found, num_images = _resolved(subset.read_spec(file), beton)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    of_images = f", {num_images:,} images" if num_images is not None else ""
    click.echo(f"{file}: {len(found.classes)} classes{of_images}, digest {found.digest}")


def _resolved(spec: "SubsetSpec", beton: Path | None) -> "tuple[Subset, int | None]":
    """On the beton's classes and images, or on ImageNet's classes alone."""
    from harness.cli.commands._betons import training_images
    from writers.beton.store import open_beton
    from writers.subset import spec as subset

    if beton is None:
        return subset.resolve(spec, subset.imagenet_classes()), None
    opened = open_beton(beton)
    manifest = opened.manifest
    found = subset.resolve(spec, manifest.classes, class_counts=training_images(opened))
    positions, _ = found.select(manifest.split, manifest.classes, opened.labels, opened.ids)
    return found, len(positions)


@command.command("rank")
@click.option(
    "--checkpoint",
    "checkpoints",
    required=True,
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A model.pt that a pretrain stage has left. May be given again, for folds of train: see --split.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="BETON|DIR",
    help="A beton with the model's classes, or the folder that holds one for the split.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train"]),
    default="val",
    show_default=True,
    help="train: what a reference model of a recipe whose ranking is by train or held_out has not seen.",
)
@click.option(
    "--resolution", type=click.IntRange(min=1), metavar="PIXELS", help="Default: the model's own."
)
@click.option(
    "--eval-crop",
    type=click.FloatRange(0, 1, min_open=True),
    default=224 / 256,
    show_default=True,
    help="Centre crop: share of the shorter side.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda:0")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='{"classes" (hardest first), "accuracy", "num_images", ...}.',
)
def rank(
    checkpoints: tuple[Path, ...],
    data: Path,
    split: str,
    resolution: int | None,
    eval_crop: float,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Rank a beton's classes by the model's accuracy on them, the hardest first.

    Prints a CSV file that a recipe can name: remove: {hardest: 100, by: ranking.csv}
    """
    from harness.modeling.precision import choose
    from harness.system import environment
    from harness.train.ranking import rank_classes
    from loaders.plan import LoaderPlan
    from writers.beton.store import open_beton

    beton = open_beton(data / f"{split}.beton" if data.is_dir() else data)
    plan = LoaderPlan(
        beton.path,
        batch_size,
        resolution or 1,
        center_fraction=eval_crop,
        device=device,
        num_threads=environment.num_cores(),
    )
    scores = rank_classes(
        _models(checkpoints, plan, beton.manifest, own_resolution=resolution is None),
        beton.manifest.classes,
        source=", ".join(map(str, checkpoints)),
        precision=choose("auto", device),
    )
    ranking = scores.ranking
    if as_json:
        click.echo(
            json.dumps(
                {
                    "classes": ranking.classes,
                    "accuracy": ranking.accuracy,
                    "num_images": scores.num_images,
                    "source": ranking.source,
                    "tie_break": ranking.tie_break,
                },
                indent=1,
            )
        )
        return
    click.echo(f"# accuracy of {ranking.source} on {beton.path}; ties by {ranking.tie_break}")
    click.echo("class,accuracy,mean_probability")
    for name in ranking.classes:
        click.echo(
            f"{_quoted(name)},{ranking.accuracy[name]:.6f},{scores.mean_probability[name]:.6f}"
        )


def _models(
    checkpoints: tuple[Path, ...], plan: "LoaderPlan", manifest: "Manifest", *, own_resolution: bool
) -> "Iterator[tuple[Classifier, LoaderPlan]]":
    """Each with the images that it is to be judged on. Raises UserError for a model of other classes, and one named twice."""
    from dataclasses import replace

    from harness.modeling import classifier as model
    from harness.train.ranking import unseen_part
    from writers.errors import UserError

    folds: list[dict[str, int]] = []
    for checkpoint in checkpoints:
        classifier, about = model.load(checkpoint)
        if about["classes"] != manifest.classes:
            raise UserError(
                f"{checkpoint} was trained on {len(about['classes'])} classes, and {plan.beton} has "
                f"{len(manifest.classes)}, or others.",
                "Rank on a beton of the very classes that the model knows.",
            )
        fold = about.get("held_out") or {}
        if any(
            fold | {"fold": 0} != other | {"fold": 0} or fold == other or manifest.split != "train"
            for other in folds
        ):
            raise UserError(
                f"{checkpoint} would judge images that {checkpoints[0]} has judged.",
                "Several models rank together where each was trained without another fold of train.",
            )
        folds.append(fold)
        shown = replace(plan, resolution=about["resolution"]) if own_resolution else plan
        yield classifier, unseen_part(shown, about, split=manifest.split, source=str(checkpoint))


def _quoted(name: str) -> str:
    """A CSV field."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"#') else name
