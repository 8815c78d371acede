"""Check the raw files of a dataset before they are written as `.beton` files."""

import json
import sys
from pathlib import Path

import click

from harness.cli.number_types import IntType
from harness.cli.options import folder_options
from harness.cli.path_types import PathType
from harness.system.folders import Folders
from writers.text_names import counted


@click.command(short_help="Check raw files: counts per split and class, every image decodes.")
@click.argument("dataset", metavar="NAME")
@click.option(
    "--source",
    type=PathType(),
    metavar="DIR|TAR|ZIP",
    help="Images of the dataset. Default: its folder in the raw folder.",
)
@click.option(
    "--protocol",
    metavar="NAME",
    help="Protocol that defines the splits. Default: the dataset's own.",
)
@click.option("--threads", type=IntType(min=1), help="Number of threads. Default: number of cores.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: {num_images, class_counts, problems}."
)
@folder_options
def command(
    dataset: str,
    source: Path | None,
    protocol: str | None,
    threads: int | None,
    folders: Folders,
    as_json: bool,
) -> None:
    """Count the images of each split and class of the dataset NAME, and decode every image.

    Lists counts that differ from the published ones, classes without images, and files that do not
    decode; the exit code is then 1.

    Example: harness verify-raw eurosat
    """
    from harness.cli import console
    from harness.cli.commands._raw_images import check_images
    from harness.config.raw_paths import raw_folder
    from harness.system import environment
    from writers import names
    from writers.check import check_raw
    from writers.dataset import SplitSettings, open_dataset
    from writers.datasets._vtab import VTAB

    module = names.find("writers.datasets", dataset, "dataset")
    spec = module.SPEC
    path = source.expanduser() if source else folders.raw / raw_folder(dataset)
    check_images(dataset, path)
    opened = open_dataset(
        dataset, path, SplitSettings(val=0.1 if protocol == VTAB else 0, protocol=protocol)
    )
    for omission in opened.omissions:
        click.echo(f"Not read: {omission}", err=True)
    with console.progress(f"verify-raw {spec.name}") as report:
        result = check_raw(
            opened,
            spec,
            classes=getattr(module, "CLASSES", ()),
            progress=report,
            num_threads=threads or environment.num_cores(),
        )
    if as_json:
        class_counts = {
            split: dict(zip(opened.classes, counts, strict=True))
            for split, counts in result.class_counts.items()
        }
        click.echo(
            json.dumps(
                {
                    "num_images": result.num_images,
                    "class_counts": class_counts,
                    "problems": result.problems,
                },
                indent=1,
            )
        )
    else:
        for split, number in result.num_images.items():
            if number:
                counts = result.class_counts[split]
                least, most = min(counts), max(counts)
                range_ = f"{least:,}" if least == most else f"{least:,} to {most:,}"
                click.echo(
                    f"{split}: {counted(number, 'image')} of "
                    f"{counted(sum(count > 0 for count in counts), 'class')}, {range_} of each"
                )
        click.echo(
            f"{spec.name}: "
            f"{counted(len(result.problems), 'problem') if result.problems else 'good'}"
        )
        for problem in result.problems:
            click.secho(f"  {problem}", fg="red")
    sys.exit(1 if result.problems else 0)
