"""Subsets of classes: show or make one, or rank classes by the accuracy of a model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli import completion
from harness.cli.number_types import FloatType
from harness.cli.options import batch_size_option, device_option, is_given, resolution_option
from harness.cli.path_types import PathType
from writers.text_names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.modeling.classifier import Classifier
    from loaders.plan import LoaderPlan
    from writers.beton.store import Manifest
    from writers.subset.spec import Subset, SubsetSpec


class SubsetGroup(click.Group):
    """The commands below, with similar names in the error for an unknown one."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return a command. Raises UserError if none has this name."""
        from writers import names

        found = super().get_command(ctx, cmd_name)
        if found is None:
            raise names.unknown("command of subset", cmd_name, self.list_commands(ctx))
        return found


@click.group(
    cls=SubsetGroup, short_help="Show or make a subset of classes, or rank classes by a model."
)
def command() -> None:
    """Show the classes of a subset, make a subset, or rank classes to make subsets from.

    Example: harness subset show in900
    """


@command.command("show", short_help="Show the classes of a subset in label order.")
@click.argument("name", metavar="NAME|FILE", shell_complete=completion.subsets)
@click.option(
    "--beton",
    type=PathType(exists=True, folder=False),
    metavar="FILE",
    help="Select from the classes and images of this beton. Default: ImageNet's classes.",
)
@click.option(
    "--map",
    "as_map",
    is_flag=True,
    help="Print lines 'class,label': the FILE of a step 'granularity: {map: FILE}'.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print JSON: {"name", "num_classes", "num_images" (with --beton), "digest", "classes"}.',
)
def show(name: str, beton: Path | None, as_map: bool, as_json: bool) -> None:
    """Show the labels of a subset in label order, with their English names.

    NAME is one of harness ls subsets. FILE is a YAML file of steps, or a text file with one class
    per line.

    Example: harness subset show in900
    """
    from writers.errors import UserError
    from writers.subset import wordnet
    from writers.subset.lists import csv_field, line_of
    from writers.subset.spec import named

    if as_map and as_json:
        raise UserError("--map and --json exclude each other.", "Remove one of them.")
    spec = named(name)
    if spec.is_everything and beton is None:
        raise UserError(
            f"The classes of the subset '{name}' depend on its source.",
            "Name a beton of the source with --beton FILE.",
        )
    resolved, num_images = _resolve(spec, beton)
    if as_json:
        content: dict[str, object] = {
            "name": resolved.name,
            "num_classes": len(resolved.classes),
        }
        content |= {"num_images": num_images} if num_images is not None else {}
        click.echo(
            json.dumps(
                {**content, "digest": resolved.digest, "classes": list(resolved.classes)}, indent=1
            )
        )
        return
    if as_map:
        for label, group in zip(
            resolved.classes,
            resolved.groups or [(name,) for name in resolved.classes],
            strict=True,
        ):
            for class_name in group:
                click.echo(f"{csv_field(class_name)},{csv_field(label)}")
        return
    of_images = f", {counted(num_images, 'image')}" if num_images is not None else ""
    click.echo(
        f"# {resolved.name}: {counted(len(resolved.classes), 'class')}{of_images}, digest "
        f"{resolved.digest}"
    )
    sizes = {
        label: len(group) for label, group in zip(resolved.classes, resolved.groups, strict=False)
    }
    for label in resolved.classes:
        merged = f"  ({sizes[label]} classes)" if sizes.get(label, 1) > 1 else ""
        click.echo(f"{line_of(label)}  {wordnet.words(label)}{merged}".rstrip())


@command.command("make", short_help="Write a subset, defined by steps, to a YAML file.")
@click.argument("file", type=PathType(folder=False, written=True), metavar="FILE.yaml")
@click.option(
    "--step",
    "steps",
    multiple=True,
    required=True,
    metavar="YAML",
    help="One step, such as 'remove: {hardest: 100, by: resnet18_val}'; repeat for further steps.",
)
@click.option(
    "--beton",
    type=PathType(exists=True, folder=False),
    metavar="FILE",
    help="Select from the classes and images of this beton. Default: ImageNet's classes.",
)
def make(file: Path, steps: tuple[str, ...], beton: Path | None) -> None:
    """Write a subset, defined by steps, to FILE.yaml, and print its size.

    \b
    Example:
    harness subset make dogs.yaml --step 'under: n02084071' \\
        --step 'per_class: {images: 100}'
    harness write-beton --subset dogs.yaml --source imagenet/
    """
    from harness.cli.commands._subset_files import check_new
    from writers.subset.spec import read_spec

    check_new(file)
    try:
        file.write_text("steps:\n" + "".join(f"  - {step}\n" for step in steps))
        resolved, num_images = _resolve(read_spec(file), beton)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    of_images = f", {counted(num_images, 'image')}" if num_images is not None else ""
    click.echo(
        f"{file}: {counted(len(resolved.classes), 'class')}{of_images}, digest {resolved.digest}"
    )


def _resolve(spec: "SubsetSpec", beton: Path | None) -> "tuple[Subset, int | None]":
    """Resolve the subset on a `.beton` file, or on ImageNet's classes.

    Returns:
        The subset, and its number of images (None without a file).
    """
    from writers.beton.class_counts import training_images
    from writers.beton.store import open_beton
    from writers.subset.lists import imagenet_classes
    from writers.subset.spec import resolve

    if beton is None:
        return resolve(spec, imagenet_classes()), None
    opened = open_beton(beton)
    manifest = opened.manifest
    resolved = resolve(spec, manifest.classes, class_counts=training_images(opened))
    positions, _ = resolved.select(manifest.split, manifest.classes, opened.labels, opened.ids)
    return resolved, len(positions)


@command.command("rank", short_help="Rank the classes of a beton by the accuracy of a model.")
@click.option(
    "--checkpoint",
    "checkpoints",
    required=True,
    multiple=True,
    metavar="FILE",
    type=PathType(exists=True, folder=False),
    help="A model.pt of a pretrain stage; may be repeated for models of different folds of train.",
)
@click.option(
    "--data",
    required=True,
    type=PathType(exists=True),
    metavar="BETON|DIR",
    help="A beton with the model's classes, or a folder with one for the split.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train"]),
    default="val",
    show_default=True,
    help="Split to rank on, if --data is a folder. For train, only images that the model was not "
    "trained on count.",
)
@resolution_option
@click.option(
    "--eval-crop",
    type=FloatType(0, 1, min_open=True),
    default=224 / 256,
    show_default=True,
    help="Side of the center crop, as a fraction of the shorter side.",
)
@batch_size_option(256)
@device_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print JSON: {"classes" (hardest first), "accuracy", "num_images", ...}.',
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
    """Rank the classes of a beton by the accuracy of a model, hardest first.

    Prints CSV that a step can name: remove: {hardest: 100, by: ranking.csv}

    \b
    Example:
    harness subset rank --checkpoint model.pt --data data/pets-all > ranking.csv
    """
    from harness.modeling.precision import choose
    from harness.system import environment
    from harness.system.gpu import select_gpu
    from harness.train.ranking import rank_classes
    from loaders.plan import LoaderPlan
    from writers.beton.store import open_beton
    from writers.errors import UserError
    from writers.subset.lists import csv_field

    select_gpu(device)
    beton = open_beton(data / f"{split}.beton" if data.is_dir() else data)
    if is_given("split") and beton.manifest.split != split:
        raise UserError(
            f"{beton.path} holds the split {beton.manifest.split}, not {split}.",
            "Leave out --split, or name a folder of betons.",
        )
    plan = LoaderPlan(
        beton.path,
        batch_size,
        1,  # replaced by the resolution of each model
        center_fraction=eval_crop,
        device=device,
        num_threads=environment.num_cores(),
    )
    scores = rank_classes(
        _models(checkpoints, plan, beton.manifest, resolution),
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
            f"{csv_field(name)},{ranking.accuracy[name]:.6f},{scores.mean_probability[name]:.6f}"
        )


def _models(
    checkpoints: tuple[Path, ...],
    plan: "LoaderPlan",
    manifest: "Manifest",
    resolution: int | None,
) -> "Iterator[tuple[Classifier, LoaderPlan]]":
    """Load each model, with a plan of the images to rank on.

    Raises:
        UserError: A model has other classes than the beton or no resolution, or two models would
            rank the same images.
    """
    from dataclasses import replace

    from harness.cli.commands._model_and_images import image_resolution, load_file
    from harness.train.loader_plans import choose_interpolation
    from harness.train.ranking import unseen_part
    from writers.errors import UserError

    folds: list[dict[str, int]] = []
    for checkpoint in checkpoints:
        model, about = load_file(checkpoint)
        plan = replace(
            plan,
            resolution=image_resolution(str(checkpoint), model, about, resolution),
            interpolation=choose_interpolation("auto", about),
        )
        if (classes := about.get("classes")) != manifest.classes:
            num_classes = len(classes) if isinstance(classes, list) else "none"
            raise UserError(
                f"{checkpoint} and {plan.beton} have different classes "
                f"({num_classes} and {len(manifest.classes)}).",
                "Use a beton with the same classes as the model.",
            )
        fold = about.get("held_out") or {}
        if any(
            fold | {"fold": 0} != other | {"fold": 0} or fold == other or manifest.split != "train"
            for other in folds
        ):
            raise UserError(
                f"{checkpoint} would rank images that an earlier checkpoint ranks, too.",
                "Use several models only if each left out another fold of train in its training.",
            )
        folds.append(fold)
        yield model, unseen_part(plan, about, split=manifest.split, source=str(checkpoint))
