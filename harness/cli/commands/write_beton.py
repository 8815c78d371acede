"""Write a dataset, or a subset of its classes, as beton files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from writers.beton.encoding import Encoding
    from writers.beton.store import Manifest


@click.command(short_help="Write images as FFCV beton files with manifests.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR|TAR|PARQUET",
    help="The images: class folders, as they are or under train/, val/, test/; a tar or zip of such; ImageNet's own "
    "tars; Parquet or WebDataset shards, or a folder of them. May be given again.",
)
@click.option(
    "--from",
    "from_",
    type=click.Path(path_type=Path),
    metavar="BETON|DIR",
    help="Copy the subset out of a beton, or out of each in a folder, without decoding.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="A name of harness ls datasets. Default: imagenet with --subset, else any tree.",
)
@click.option(
    "--subset",
    "subset_name",
    metavar="NAME|FILE",
    help="Only these classes and images: a name of harness ls subsets, a YAML file of steps, or a text file "
    "with a class a line.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SPLIT",
    help="train, val or test; may be given again. Default: all.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Default: <dataset>-<subset> in the data folder.",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="All of the encoding by one name: 500_0.50_90 is max resolution, share of JPEG, quality.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jpeg", "raw", "mixed", "passthrough", "dct"]),
    default="jpeg",
    show_default=True,
    help="How pixels are stored; passthrough keeps JPEG files that are small enough; dct keeps their coefficients, which load "
    "fastest. With --from, dct converts the JPEGs of that beton.",
)
@click.option(
    "--passthrough", "format_", flag_value="passthrough", help="Short for --format passthrough."
)
@click.option(
    "--max-resolution",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Of the longer side. Default: as it comes.",
)
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option(
    "--compress-probability",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Of images stored as JPEG (mixed).",
)
@click.option(
    "--restart-index/--no-restart-index",
    default=None,
    help="JPEGs of which loaders decode only the part that they show. Default: yes, but for passthrough. "
    "With --from: give them to the JPEGs of that beton.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Also decode what is stored as it comes: passthrough's JPEGs; with --from, verify that beton first.",
)
@click.option(
    "--val",
    "val_share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of train that becomes val where the source has no val.",
)
@click.option(
    "--test",
    "test_share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Likewise for test.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Of the order in the file, and of the splits made here.",
)
@click.option(
    "--protocol", metavar="NAME", help="Whose splits: vtab and so on. Default: the dataset's own."
)
@click.option(
    "--accept-counts",
    is_flag=True,
    help="Write a dataset whose counts differ from those published; the manifest says how.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the machine's cores.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What an unreadable image does; those skipped stand in the manifest.",
)
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
    harness write-beton --subset in900 --source /data/imagenet     900 classes of a tree, official tars, shards
    harness write-beton --source photos/                           any tree of class folders
    harness write-beton --dataset synthetic_things                 images made on the spot
    harness write-beton --subset in900 --from data/imagenet-all    out of betons, without decoding
    """
    if from_ is not None:
        manifests = _copy(
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
            f"{file}: {manifest.num_samples:,} images, {len(manifest.classes)} classes, "
            f"{manifest.bytes / 1e6:,.1f} MB, sha256 {manifest.sha256[:12]}"
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
    threads: int | None,
    on_error: Literal["fail", "skip"],
    check: bool,
    accept_counts: bool,
    **encoding_options: Any,
) -> list[tuple[Path, "Manifest"]]:
    from harness.cli import console
    from harness.config.raw_paths import raw_folder
    from harness.config.recipe import DataSettings
    from harness.system import environment
    from writers.beton.provenance import open_with_origin, record
    from writers.beton.write import write_split
    from writers.check import accepted_differences
    from writers.dataset import SplitSettings, spec_of
    from writers.errors import UserError
    from writers.subset.spec import everything, named, resolve

    encoding = _encoding(**encoding_options)
    spec = named(subset_name) if subset_name else None
    name = dataset or ("imagenet" if spec else "folder")
    if not sources and name == "folder":
        raise UserError(
            "Say which images: --source DIR, or --dataset NAME.",
            "harness ls datasets names the datasets.",
        )
    paths = [source.expanduser() for source in sources] or [folders.raw / raw_folder(name)]
    opened, origin = open_with_origin(
        name, paths, SplitSettings(val=val_share, test=test_share, seed=seed, protocol=protocol)
    )
    opened.differences = accepted_differences(opened, spec_of(name), accept=accept_counts)
    subset = (
        resolve(spec, opened.classes, class_counts=opened.class_counts())
        if spec
        else everything(opened.classes)
    )
    label = DataSettings(dataset=name, path=str(paths[0])).label
    folder = out.expanduser() if out else folders.data / f"{label}-{subset.name}"
    written = []
    for split in _asked_splits(splits, opened.splits):
        file = folder / f"{split}.beton"
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
                check=check,
            )
        record(file, manifest, origin)
        written.append((file, manifest))
    return written


def _copy(
    from_: Path,
    subset_name: str | None,
    splits: tuple[str, ...],
    out: Path | None,
    folders: Folders,
    *,
    check: bool,
    threads: int | None,
    index: bool | None,
    format_: str,
) -> list[tuple[Path, "Manifest"]]:
    from harness.cli import console
    from harness.cli.commands._betons import training_images
    from harness.system import environment
    from writers import names
    from writers.beton.add_restart_index import add_index, to_dct
    from writers.beton.copy import copy_subset
    from writers.beton.provenance import inherit
    from writers.beton.store import open_beton
    from writers.beton.verify import verify
    from writers.errors import UserError
    from writers.subset.spec import named, resolve

    converts = format_ == "dct"
    _refuse_without_effect(
        ({"restart_index"} if converts else {"format_"})
        | {
            "sources",
            "dataset",
            "preset",
            "max_resolution",
            "jpeg_quality",
            "compress_probability",
            "val_share",
            "test_share",
            "seed",
            "on_error",
            "accept_counts",
            "protocol",
        }
    )
    if (subset_name is None) != (bool(index) or converts):
        raise UserError(
            "Give the classes to copy, --subset NAME, or how to store all of them: --restart-index or --format dct.",
            "Not both at once: one after the other. harness ls subsets names the subsets.",
        )
    from_ = from_.expanduser()
    files = (
        {file.stem: file for file in sorted(from_.glob("*.beton"))}
        if from_.is_dir()
        else {from_.stem: from_}
    )
    if not files:
        raise UserError(f"{from_} has no betons.", "Write them with `harness write-beton`.")
    for split in splits:
        if split not in files:
            raise names.unknown("beton", split, files)
    copied = []
    for split in splits or files:
        beton = open_beton(files[split])
        manifest = beton.manifest
        if check:
            with console.progress(f"verify {split}", "samples") as report:
                problems = verify(
                    files[split], report, num_threads=threads or environment.num_cores()
                )
            if problems:
                raise UserError(
                    f"{files[split]} is damaged: {problems[0]}",
                    "harness verify says all that is wrong with it.",
                )
        if subset_name is None:
            file = (
                out.expanduser()
                if out
                else folders.data / f"{manifest.name}-{'dct' if converts else 'indexed'}"
            ) / f"{split}.beton"
            with console.progress(f"{'convert' if converts else 'index'} {split}") as report:
                copied.append(
                    (
                        file,
                        (to_dct if converts else add_index)(
                            files[split],
                            file,
                            progress=report,
                            num_threads=threads or environment.num_cores(),
                        ),
                    )
                )
            continue
        subset = resolve(named(subset_name), manifest.classes, class_counts=training_images(beton))
        file = (
            out.expanduser() if out else folders.data / f"{manifest.dataset}-{subset.name}"
        ) / f"{split}.beton"
        with console.progress(f"copy {split}") as report:
            copied.append((file, copy_subset(files[split], subset, file, progress=report)))
        inherit(files[split], file)
    return copied


def _refuse_without_effect(names: set[str]) -> None:
    """Raises UserError where one of these options was given beside --from."""
    from writers.errors import UserError

    context = click.get_current_context()
    for option in context.command.params:
        if (
            option.name in names
            and context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
        ):
            raise UserError(
                f"{option.opts[0]} has no effect with --from: the samples are taken as they are.",
                "Leave it out, or write from the images with --source.",
            )


def _encoding(*, preset: str | None, format_: str, **settings: Any) -> "Encoding":
    """Raises UserError for settings that do not go together."""
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
                f"--preset {preset} is all of the encoding; another option for it beside it is unclear.",
                "Leave the preset or the other options out.",
            )
        return Encoding.model_validate(preset)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error


def _asked_splits(asked: tuple[str, ...], there: "Mapping[str, Sequence[Any]]") -> list[str]:
    """The splits to write: those asked for, else all that have images. Raises UserError for one that is not there."""
    from writers import names

    filled = [split for split, examples in there.items() if examples]
    for split in asked:
        if split not in filled:
            raise names.unknown("split with images", split, filled)
    return list(asked) or filled
