"""Write a manifest (JSON file of classes, counts and digests) for a `.beton` file of stock FFCV."""

from pathlib import Path

import click

from harness.cli.number_types import IntType
from harness.cli.options import folder_options
from harness.cli.path_types import PathType
from harness.system.folders import Folders
from writers.split_names import SPLITS
from writers.text_names import counted


@click.command(short_help="Write manifests for betons made by FFCV, without re-encoding.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=PathType(exists=True, folder=False),
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="Split of the file. Default: from its name, such as train_500_0.50_90.ffcv.",
)
@click.option(
    "--classes",
    metavar="FILE|SUBSET",
    help="Class names in label order: a text file with one per line, or a subset such as in1000. "
    "Default: numbers.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the dataset. Default: name of the file's folder."
)
@click.option(
    "--out",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder that gets a link to the beton, with the manifest next to it. Default: the file's "
    "own folder.",
)
@click.option("--threads", type=IntType(min=1), help="Threads. Default: number of cores.")
@folder_options
def command(
    files: tuple[Path, ...],
    split: str | None,
    classes: str | None,
    name: str | None,
    out: Path | None,
    threads: int | None,
    folders: Folders,
) -> None:
    """Scan each beton once and write its manifest. The beton itself is not changed.

    The loader, harness verify, --from and recipes (as dataset `beton`) then accept the file. Its
    samples must be an image and one integer label, as those of ffcv-imagenet are.

    \b
    Example:
    harness adopt-beton train_500_0.50_90.ffcv val_500_0.50_90.ffcv \\
        --classes in1000 --name imagenet --out data/imagenet-ffcv
    """
    from harness.cli import console
    from harness.system import environment
    from writers.beton.adopt import adopt
    from writers.errors import UserError
    from writers.text_names import file_name, printable

    names = _class_names(classes) if classes is not None else None
    for file in files:
        split_of_file = split or _split_of(file)
        if split_of_file is None:
            raise UserError(
                f"The name {printable(file.name)} does not begin with train, val or test.",
                "Name the split: --split train",
            )
        out_file = out / f"{split_of_file}.beton" if out else None
        with console.progress(f"adopt {printable(file.name)}", "samples") as report:
            manifest = adopt(
                file,
                split=split_of_file,
                name=file_name(name or file.resolve().parent.name or "ffcv"),
                classes=names,
                out_file=out_file,
                num_threads=threads or environment.num_cores(),
                progress=report,
            )
        click.echo(
            f"{printable(str(out_file or file))}: {counted(manifest.num_samples, 'image')}, "
            f"{counted(len(manifest.classes), 'class')}, {manifest.num_jpeg:,} as JPEG, sha256 "
            f"{manifest.sha256[:12]}"
        )


def _split_of(file: Path) -> str | None:
    from writers.split_names import split_of

    stem = file.name.split(".")[0]
    return split_of(stem) or split_of(stem.split("_")[0])


def _class_names(classes: str) -> list[str]:
    """Read class names from a file or a subset.

    Raises:
        UserError: the file or subset cannot be read, lists no classes, or lists a class twice.
    """
    from writers.errors import UserError
    from writers.subset.lists import read_class_list
    from writers.subset.spec import named

    path = Path(classes).expanduser()
    if not path.is_file():
        listed = named(classes).classes
        if listed is None:
            raise UserError(f"{classes} lists no classes.", "Give a subset such as in1000.")
        return list(listed)
    names = list(read_class_list(path))
    if len(set(names)) != len(names):
        raise UserError(f"{path} lists a class twice.", "Give a different name for each label.")
    return names
