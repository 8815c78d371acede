"""Rank source classes by how often a model predicts them for given photographs: label mapping."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.number_types import FloatType, IntType
from harness.cli.options import (
    batch_size_option,
    device_option,
    folder_options,
    resolution_option,
)
from harness.cli.path_types import PathType
from harness.system.folders import Folders
from writers.text_names import counted

if TYPE_CHECKING:
    import numpy as np

    from harness.modeling.classifier import Classifier
    from writers.subset.scores import ClassScores

ARCHIVES = (".tar", ".zip", ".parquet")  # extensions of archives of photographs


@click.command(
    short_help="Rank source classes by your photographs, and write the best as a subset."
)
@click.option(
    "--target",
    required=True,
    metavar="DIR|TAR|ZIP|NAME",
    shell_complete=completion.datasets,
    help="Class folders of photographs, a tar or zip of them, or a dataset; see harness ls "
    "datasets. A path is relative to this folder, or to the raw folder.",
)
@click.option(
    "--surrogate",
    required=True,
    metavar="MODEL",
    help="A model of the source classes: a model.pt, a stage that trained one, efficientnet_lite0, "
    "or torchvision/NAME or timm/NAME with weights in the cache of that library.",
)
@click.option(
    "--keep",
    type=FloatType(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Fraction of the source classes to keep.",
)
@click.option(
    "--source-beton",
    type=PathType(exists=True, folder=False),
    metavar="FILE",
    help="Train beton of the source, to count the images that are no longer needed. Default: "
    "every class counts equally.",
)
@click.option(
    "--out",
    type=PathType(folder=False, written=True),
    metavar="FILE.yaml",
    help="File of the subset. Default: <target>-<percent>.yaml in this folder.",
)
@click.option(
    "--csv",
    "csv_file",
    type=PathType(folder=False, written=True),
    metavar="FILE.csv",
    help="Also write the score of every class, for the step label_mapping: {by: FILE.csv}.",
)
@click.option(
    "--show",
    type=IntType(min=0),
    default=10,
    show_default=True,
    help="Number of classes to print.",
)
@resolution_option
@batch_size_option(64)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the score of every class.")
@folder_options
def command(
    target: str,
    surrogate: str,
    keep: float,
    source_beton: Path | None,
    out: Path | None,
    csv_file: Path | None,
    show: int,
    resolution: int | None,
    batch_size: int,
    device: str,
    as_json: bool,
    folders: Folders,
) -> None:
    """Rank source classes by the number of your photographs that a model assigns to them.

    The highest ranked classes are kept and written as a subset.

    The model sees each train and val image once. Test images are not read.

    \b
    Example:
    harness which-classes --target my-photos \\
        --surrogate efficientnet_lite0 --keep 0.8
    """
    import numpy as np

    from harness.cli.commands._model_and_images import image_resolution, load_model, write_betons
    from harness.cli.commands._subset_files import check_new, check_new_scores, file_name
    from harness.system.gpu import select_gpu
    from writers.subset.formulas.label_mapping import num_mapped, scores_of
    from writers.subset.scores import SEEN_SPLITS
    from writers.text_names import printable

    dataset, images = _images_of(target, folders)
    label = printable(images.name.split(".")[0] if images is not None else dataset)
    file = out or Path(file_name(f"{label}-{round(100 * keep)}"))
    check_new(file)
    if csv_file is not None:
        check_new_scores(csv_file)
    select_gpu(device)
    model, about = load_model(surrogate, folders)
    resolution = image_resolution(surrogate, model, about, resolution)
    classes = _source_classes(surrogate, about, model.head.out_features)
    num_train = _num_train_images(classes, source_beton)
    betons = write_betons(dataset, images, None, folders, SEEN_SPLITS, "--target")
    model = model.to(device)
    probs = np.concatenate(
        [
            _probabilities(model, about, beton, resolution, batch_size, device)
            for beton in betons.values()
        ]
    )
    source = (
        f"label mapping of {len(probs):,} train and val images of {label} by {printable(surrogate)}"
    )
    scores = scores_of([probs], classes, source)
    ranked = scores.ranked(classes)
    kept = set(ranked[: max(1, int(keep * len(classes) + 0.5))])
    counts = dict(zip(classes, num_mapped(probs).tolist(), strict=True))
    saved = 1 - sum(num_train[name] for name in kept) / sum(num_train.values())
    digest = _write_subset(file, [name for name in classes if name in kept], source, about, betons)
    if csv_file is not None:
        _write_scores(csv_file, scores, ranked)
    if as_json:
        record = {
            "target": label,
            "surrogate": surrogate,
            "num_images": len(probs),
            "num_classes": len(classes),
            "num_kept": len(kept),
            "num_seen": sum(count > 0 for count in counts.values()),
            "saved": saved,
            "file": str(file),
            "digest": digest,
            "classes": [
                {"class": name, "images": counts[name], "probability": scores.tie_break[name]}
                for name in ranked
            ],
        }
        click.echo(json.dumps(record, indent=1))
        return
    _print(scores, ranked, counts, len(kept), show)
    is_counted = source_beton is not None
    click.echo(
        f"Pretraining on them needs {'' if is_counted else 'about '}{100 * saved:.0f} % fewer "
        "images per epoch, and as much less time at an equal number of epochs"
        + ("." if is_counted else ", if classes have equal numbers of images.")
    )
    click.echo(f"{file}: {counted(len(kept), 'class')}, digest {digest}")


def _images_of(target: str, folders: Folders) -> tuple[str, Path | None]:
    """Find the photographs: a path, the name of a dataset, or a path below the raw folder.

    A dataset's name is tried before a path in the raw folder: its raw images are there under the
    same name, and have the dataset's splits.

    Returns:
        The dataset, and the path of its images: None if they are in the dataset's own raw folder.
    """
    from writers import names
    from writers.errors import UserError
    from writers.regular_file import no_file, other_kind

    known = names.names("writers.datasets")
    path, name = Path(target).expanduser(), names.normalize(target)
    if _has_images(path):
        _refuse_flat(path)
        return "folder", path
    if name in known:
        return name, None
    for path in (folders.raw / f"{target}{ending}" for ending in ("", *ARCHIVES)):
        if _has_images(path):
            _refuse_flat(path)
            return "folder", path
    if other_kind(Path(target)):
        raise UserError(no_file(target), "Name a folder, a tar, or a dataset.")
    near = names.nearest(target, known)
    raise UserError(
        f"There are no images at {target}, and no dataset of that name.",
        f"Did you mean {' or '.join(near)}?" if near else "Name a folder, a tar, or a dataset.",
    )


def _refuse_flat(path: Path) -> None:
    """Raise UserError for a folder of photographs without folders in it."""
    from writers.errors import UserError
    from writers.formats.image_formats import is_image

    entries = list(path.iterdir()) if path.is_dir() else []
    if any(is_image(entry.name) for entry in entries) and not any(e.is_dir() for e in entries):
        raise UserError(
            f"{path} has photographs, but no folder of them: images are read from class folders.",
            "The classes have no effect on the ranking: one folder is enough, such as "
            f"{path / 'photos'}.",
        )


def _has_images(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.name.endswith(ARCHIVES))


def _source_classes(surrogate: str, about: dict[str, Any], num_outputs: int) -> list[str]:
    """Names of the classes of the model (--surrogate), one per output of its head.

    Raises:
        UserError: the model has no head for its classes, or their names do not fit the head.
    """
    from harness.config.base import repeated
    from writers.errors import UserError

    if not about.get("has_head", True) or not about.get("classes"):
        raise UserError(
            f"{surrogate} has no head for source classes, which label mapping counts.",
            "Name a model with one, or select clusters by the step feature_mapping in a recipe.",
        )
    classes = about["classes"]
    problem = (
        "they are no list of texts"
        if not isinstance(classes, list | tuple)
        or not all(isinstance(name, str) for name in classes)
        else f"there are {len(classes):,}, and its head has {counted(num_outputs, 'output')}"
        if len(classes) != num_outputs
        else f"the name {repeated(classes)} occurs more than once"
        if repeated(classes)
        else None
    )
    if problem is not None:
        raise UserError(
            f"The class names in {surrogate} cannot be used: {problem}.",
            "Read the weights with harness import-checkpoint --classes SUBSET.",
        )
    return list(classes)


def _probabilities(
    model: "Classifier",
    about: dict[str, Any],
    beton: Path,
    resolution: int,
    batch_size: int,
    device: str,
) -> "np.ndarray":
    """Probabilities of the source classes for all N images of a `.beton` file, float32 [N, C]."""
    from harness.cli import console
    from harness.system import environment
    from harness.train.loader_plans import choose_interpolation
    from harness.transfer.features import extract
    from loaders import open_loader
    from loaders.plan import LoaderPlan

    plan = LoaderPlan(
        beton,
        batch_size,
        resolution,
        center_fraction=about.get("eval_crop") or 224 / 256,
        interpolation=choose_interpolation("auto", about),
        device=device,
        num_threads=environment.num_cores(),
    )
    with open_loader(plan) as loader, console.progress(f"look at {beton.stem}") as report:
        features = extract(
            model,
            loader,
            device=device,
            precision="float32",
            after_batch=lambda done: report(done, loader.num_samples),
        )
    assert features.probs is not None
    return features.probs


def _num_train_images(classes: Sequence[str], source_beton: Path | None) -> dict[str, int]:
    """Return each class's number of training images in the source; 1 if the numbers are unknown.

    Raises:
        UserError: the beton lacks a class.
    """
    from writers.beton.class_counts import training_images
    from writers.beton.store import open_beton
    from writers.errors import UserError

    counts = dict.fromkeys(classes, 1)
    if source_beton is not None:
        counts = training_images(open_beton(source_beton)) or counts
    if missing := [name for name in classes if name not in counts]:
        raise UserError(
            f"{source_beton} lacks {counted(len(missing), 'class')} of the surrogate, such as "
            f"{missing[0]}.",
            "Name the train beton of the surrogate's source.",
        )
    return {name: counts[name] for name in classes}


def _write_subset(
    file: Path,
    kept: Sequence[str],
    source: str,
    about: dict[str, Any],
    betons: dict[str, Path],
) -> str:
    """Write the subset with its origin in comments; returns its digest."""
    from ruamel.yaml import YAML

    from harness.system.atomic_write import write_atomically
    from writers.beton.store import open_beton
    from writers.subset.spec import read_spec, resolve
    from writers.text_names import printable

    manifests = {split: open_beton(beton).manifest for split, beton in betons.items()}
    weights = about.get("sha256") or about.get("stage")
    origin = [
        f"{counted(len(kept), 'class')}: {source}",
        *([f"weights of the surrogate: {printable(str(weights))}"] if weights else []),
        *(
            f"{split}: {counted(manifest.num_samples, 'image')}, sha256 {manifest.sha256}"
            for split, manifest in manifests.items()
        ),
    ]
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    content = io.BytesIO()
    yaml.dump({"classes": list(kept)}, content)
    comments = "".join(f"# {line}\n" for line in origin)
    write_atomically(file, comments.encode() + content.getvalue())
    return resolve(read_spec(file), kept).digest


def _write_scores(file: Path, scores: "ClassScores", ranked: Sequence[str]) -> None:
    """Write a CSV file that `writers.subset.scores.read_class_scores` reads."""
    from harness.system.atomic_write import write_atomically
    from writers.subset.lists import csv_field

    rows = [f"{csv_field(name)},{scores.value[name]},{scores.tie_break[name]}\n" for name in ranked]
    text = f"# {scores.source}\nclass,score,tie_break\n{''.join(rows)}"
    write_atomically(file, text.encode())


def _print(
    scores: "ClassScores",
    ranked: Sequence[str],
    counts: dict[str, int],
    num_kept: int,
    num_shown: int,
) -> None:
    """Print the first classes, and what the ranking is based on."""
    from writers.subset import wordnet
    from writers.text_names import printable

    click.echo(f"{scores.source[:1].upper()}{scores.source[1:]}:")
    total = sum(counts.values())
    for place, name in enumerate(ranked[: min(num_shown, num_kept)], 1):
        words = f"  {wordnet.words(name)}" if wordnet.words(name) else ""
        click.echo(
            f"  {place:4}  {counts[name]:6,}  {100 * counts[name] / total:5.1f} %  "
            f"{printable(name)}{words}"
        )
    seen = [name for name in ranked if counts[name]]
    covered = sum(counts[name] for name in ranked[:num_kept])
    click.echo(
        f"{len(seen)} of {counted(len(ranked), 'class')} are seen. The {num_kept} that are kept "
        f"cover {100 * covered / total:.1f} % of the images."
    )
    if num_kept > len(seen):
        digits = max(2, len(str(len(ranked) - 1)))  # enough to keep the exact number
        click.echo(
            f"{num_kept - len(seen)} of them are seen in no image and are kept for their mean "
            f"probability; --keep {len(seen) / len(ranked):.{digits}f} keeps those that are seen."
        )
