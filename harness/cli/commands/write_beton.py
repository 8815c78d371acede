"""Write a dataset, or a subset of its classes, as `.beton` files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.cli import completion
from harness.cli.commands._label_options import label_options
from harness.cli.number_types import FloatType, IntType
from harness.cli.options import folder_options
from harness.cli.path_types import PathType
from harness.system.folders import Folders
from writers.text_names import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from writers.beton.encoding import Encoding
    from writers.beton.store import Manifest
    from writers.folder_rules import SplitFolders
    from writers.labels.settings import LabelTable


@click.command(short_help="Write images as FFCV beton files with manifests.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=PathType(),
    metavar="DIR|TAR|PARQUET",
    help="The images: class folders, directly or under train/, val/, test/; a tar or zip of these; "
    "ImageNet's official tars; Parquet or WebDataset shards, or a folder of them. May be repeated.",
)
@click.option(
    "--from",
    "from_",
    type=PathType(),
    metavar="BETON|DIR",
    help="Copy the subset from a beton, or from each beton of a folder, without decoding.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    shell_complete=completion.datasets,
    help="Dataset; see harness ls datasets. Default: imagenet with --subset, otherwise any tree of "
    "class folders.",
)
@click.option(
    "--subset",
    "subset_name",
    metavar="NAME|FILE",
    shell_complete=completion.subsets,
    help="Write only these classes and images: a name of harness ls subsets, a YAML file of steps, "
    "or a text file with one class per line.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SPLIT",
    help="Split to write: train, val or test; may be repeated. Default: all.",
)
@click.option(
    "--out",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder to write. Default: <dataset>-<subset> in the data folder.",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Encoding by name: 500_0.50_90 is max resolution, fraction of JPEG, quality.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jpeg", "raw", "mixed", "passthrough", "dct"]),
    default="jpeg",
    show_default=True,
    help="How images are stored. passthrough keeps JPEG files that are small enough; dct keeps "
    "their coefficients, which load fastest. With --from, dct converts the JPEGs of that beton, "
    "and passthrough converts coefficients back to JPEGs of the same pixels.",
)
@click.option(
    "--passthrough", "format_", flag_value="passthrough", help="Same as --format passthrough."
)
@click.option(
    "--max-resolution",
    type=IntType(min=1),
    metavar="PIXELS",
    help="Largest length of the longer side. Default: no limit.",
)
@click.option(
    "--jpeg-quality",
    type=IntType(1, 100),
    default=90,
    show_default=True,
    help="Quality of re-encoded JPEGs.",
)
@click.option(
    "--compress-probability",
    type=FloatType(0, 1),
    metavar="FRACTION",
    help="Fraction of images stored as JPEG (mixed).",
)
@click.option(
    "--restart-index/--no-restart-index",
    default=None,
    help="Index JPEGs so that loaders decode only the crop. Default: yes, except for passthrough. "
    "With --from: index the JPEGs of that beton.",
)
@click.option(
    "--check/--no-check",
    default=None,
    help="Read all coded data of JPEGs that are stored unchanged, to find damage. Default: yes; "
    "--no-check reads the markers only and is faster. With --from, --check verifies that beton "
    "first.",
)
@click.option(
    "--val",
    "val_share",
    type=FloatType(0, 1),
    default=0.1,
    show_default=True,
    help="Fraction of train that becomes val if the source has no val.",
)
@click.option(
    "--test",
    "test_share",
    type=FloatType(0, 1),
    default=0.0,
    show_default=True,
    help="Fraction of train that becomes test if the source has no test.",
)
@click.option(
    "--seed",
    default=0,
    metavar="N",
    show_default=True,
    help="Seed of the order of images in the file, and of splits drawn from train.",
)
@click.option(
    "--split-folders",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto: folders named train, val, test and the like are splits; never: they are classes.",
)
@click.option(
    "--class-level",
    type=IntType(min=1),
    metavar="N",
    help="Level of the class folders: 1 is directly below the splits. Other levels are ignored. "
    "Default: 1; required if the folders are ambiguous.",
)
@click.option(
    "--protocol",
    metavar="NAME",
    help="Protocol that defines the splits, such as vtab. Default: the dataset's own.",
)
@click.option(
    "--accept-counts",
    is_flag=True,
    help="Write a dataset whose counts differ from the published ones; the manifest records this.",
)
@click.option("--threads", type=IntType(min=1), help="Number of threads. Default: number of cores.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do about an unreadable image or its damaged annotation; the manifest lists "
    "skipped images.",
)
@label_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifests.")
@folder_options
def command(
    sources: tuple[Path, ...],
    from_: Path | None,
    dataset: str | None,
    subset_name: str | None,
    splits: tuple[str, ...],
    out: Path | None,
    folders: Folders,
    as_json: bool,
    **options: Any,
) -> None:
    """Write images as FFCV beton files with manifests: train.beton, val.beton and so on.

    \b
    Examples:
    harness write-beton --source photos/
    harness write-beton --source dogs/ --labels dogs/labels.csv
    harness write-beton --dataset synthetic_things
    harness write-beton --subset in900 --source /data/imagenet
    harness write-beton --subset in900 --from data/imagenet-all
    """
    if from_ is not None:
        from harness.cli.commands import _write_from_beton

        manifests = _write_from_beton.write(
            from_,
            subset_name,
            splits,
            out,
            folders,
            check=options["check"],
            threads=options["threads"],
            index=options["restart_index"],
            format_=options["format_"],
        )
    else:
        manifests = _write(sources, dataset, subset_name, splits, out, folders, **options)
    if as_json:
        import json

        click.echo(
            json.dumps([manifest.model_dump(mode="json") for _, manifest in manifests], indent=1)
        )
        return
    for file, manifest in manifests:
        click.echo(
            f"{file}: {counted(manifest.num_samples, 'image')}, "
            f"{counted(len(manifest.classes), 'class')}, {manifest.bytes / 1e6:,.1f} MB, sha256 "
            f"{manifest.sha256[:12]}"
        )


def _write(
    sources: tuple[Path, ...],
    dataset: str | None,
    subset_name: str | None,
    splits: tuple[str, ...],
    out: Path | None,
    folders: Folders,
    *,
    val_share: float,
    test_share: float,
    seed: int,
    protocol: str | None,
    split_folders: "SplitFolders",
    class_level: int | None,
    threads: int | None,
    on_error: Literal["fail", "skip"],
    check: bool | None,
    accept_counts: bool,
    labels: "LabelTable | None",
    **encoding_options: Any,
) -> list[tuple[Path, "Manifest"]]:
    from harness.cli import console
    from harness.cli.commands._raw_images import check_images
    from harness.config.data import DataSettings
    from harness.config.raw_paths import raw_folder
    from harness.system import environment
    from writers.beton.provenance import open_with_origin, record
    from writers.beton.write import write_split
    from writers.check import accepted_differences
    from writers.dataset import SplitSettings, spec_of
    from writers.errors import UserError
    from writers.folder_rules import FolderRules
    from writers.split_names import SPLITS
    from writers.subset.spec import everything, named, resolve

    encoding = _encoding(**encoding_options)
    if check is False and encoding.format != "passthrough":
        raise UserError(
            f"--no-check has no effect with format {encoding.format}, which decodes each image.",
            "Remove it, or use --format passthrough.",
        )
    spec = named(subset_name) if subset_name else None
    name = dataset or ("imagenet" if spec else "folder")
    if not sources and name == "folder":
        raise UserError(
            "There are no images to write: use --source DIR or --dataset NAME.",
            "List the datasets: harness ls datasets",
        )
    paths = [source.expanduser() for source in sources] or [folders.raw / raw_folder(name)]
    if not sources:
        check_images(name, paths[0])
    opened, origin = open_with_origin(
        name,
        paths,
        SplitSettings(
            val_share,
            test_share,
            seed,
            protocol,
            FolderRules(split_folders, class_level),
            on_error == "skip",
        ),
        labels,
    )
    for omission in opened.omissions:
        click.echo(f"Not read: {omission}", err=True)
    opened.differences = accepted_differences(opened, spec_of(name), accept=accept_counts)
    subset = (
        resolve(spec, opened.classes, class_counts=opened.class_counts())
        if spec
        else everything(opened.classes)
    )
    label = DataSettings(dataset=name, path=str(paths[0])).label
    folder = out.expanduser() if out else folders.data / f"{label}-{subset.name}"
    written = []
    for split in _splits_to_write(splits, opened.splits):
        file = folder / f"{split}.beton"
        before = _manifest_of(file)
        with console.progress(f"write {split}") as report:
            manifest = write_split(
                opened,
                split,
                subset,
                encoding,
                file,
                seed=seed,
                progress=report,
                num_threads=threads or environment.num_cores(),
                on_error=on_error,
                check=check is not False,
                warn=lambda line: click.echo(line, err=True),
            )
        record(file, manifest, origin)
        if before is not None and before.sha256 != manifest.sha256:
            number = counted(before.num_samples, "image")
            click.echo(f"Replaced {file}, which had {number} and other content.", err=True)
        written.append((file, manifest))
    for split in SPLITS if not splits else ():
        file = folder / f"{split}.beton"
        if file.is_file() and file not in [new for new, _ in written]:
            click.echo(
                f"Kept {file} of an earlier call; the new betons may have some of its images.",
                err=True,
            )
    return written


def _manifest_of(file: Path) -> "Manifest | None":
    """Return the manifest of a beton; None if there is none that can be read."""
    from writers.beton.store import read_manifest
    from writers.errors import UserError

    try:
        return read_manifest(file)
    except (UserError, OSError):
        return None


def _encoding(*, preset: str | None, format_: str, **settings: Any) -> "Encoding":
    """Build the encoding. Raises UserError for settings that contradict each other."""
    from pydantic import ValidationError

    from writers.beton.encoding import Encoding
    from writers.errors import UserError

    try:
        if preset is None:
            return Encoding.model_validate({"format": format_, **settings})
        defaults = Encoding()
        if format_ != "jpeg" or any(
            value not in (None, getattr(defaults, name)) for name, value in settings.items()
        ):
            raise UserError(
                f"--preset {preset} sets all of the encoding; it excludes other encoding options.",
                "Remove the preset or the other options.",
            )
        return Encoding.model_validate(preset)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"{part}: " for part in first["loc"])
        name = name or ("" if preset is None else "--preset: ")
        raise UserError(f"{name}{first['msg'].removeprefix('Value error, ')}.") from error


def _splits_to_write(wanted: tuple[str, ...], examples: "Mapping[str, Sequence[Any]]") -> list[str]:
    """Return the wanted splits, or all with images if none is named.

    Raises:
        UserError: A wanted split has no images.
    """
    from writers import names

    filled = [split for split, images in examples.items() if images]
    for split in wanted:
        if split not in filled:
            raise names.unknown("split with images", split, filled)
    return list(wanted) or filled
