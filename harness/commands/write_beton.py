"""Write a dataset, or a subset of its classes, as beton files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.folders import Folders, folder_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from writers.store import Manifest


@click.command(short_help="Write images as FFCV beton files with manifests.")
@click.option("--source", type=click.Path(path_type=Path), metavar="DIR|TAR",
              help="The images: class folders, as they are or under train/, val/, test/; or a tar of such.")
@click.option("--dataset", metavar="NAME",
              help="A name of harness ls datasets. Default: imagenet with --subset, else any tree.")
@click.option("--subset", "subset_name", metavar="NAME", help="Only these classes: a name of harness ls subsets.")
@click.option("--split", "splits", multiple=True, metavar="SPLIT",
              help="train, val or test; may be given again. Default: all.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Default: <dataset>-<subset> in the data folder.")
@click.option("--format", "format_", type=click.Choice(["jpeg", "raw", "mixed", "passthrough"]), default="jpeg",
              show_default=True, help="How pixels are stored; passthrough keeps JPEG files that are small enough.")
@click.option("--max-resolution", type=click.IntRange(min=1), metavar="PIXELS",
              help="Of the longer side. Default: as it comes.")
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option("--compress-probability", type=click.FloatRange(0, 1), metavar="SHARE",
              help="Of images stored as JPEG (mixed).")
@click.option("--val", "val_share", type=click.FloatRange(0, 1), default=0.1, show_default=True,
              help="Share of train that becomes val where the source has no val.")
@click.option("--test", "test_share", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Likewise for test.")
@click.option("--seed", default=0, show_default=True, help="Of the order in the file, and of the splits made here.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the machine's cores.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
              help="What an unreadable image does; those skipped stand in the manifest.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifests.")
@folder_options
def command(source: Path | None, dataset: str | None, subset_name: str | None, splits: tuple[str, ...],
            out: Path | None, folders: Folders, as_json: bool, **options: Any) -> None:
    """Write images as FFCV beton files with manifests: train.beton, val.beton and so on.

    \b
    harness write-beton --subset in900 --source /data/imagenet     ImageNet-layout tree, 900 classes
    harness write-beton --source photos/                           any tree of class folders
    harness write-beton --dataset synthetic_things                 images made on the spot
    """
    manifests = _write(source, dataset, subset_name, splits, out, folders, **options)
    if as_json:
        import json

        click.echo(json.dumps([manifest.model_dump(mode="json") for _, manifest in manifests], indent=1))
        return
    for file, manifest in manifests:
        click.echo(f"{file}: {manifest.num_samples:,} images, {len(manifest.classes)} classes, "
                   f"{manifest.bytes / 1e6:,.1f} MB, sha256 {manifest.sha256[:12]}")


def _write(source: Path | None, dataset: str | None, subset_name: str | None, splits: tuple[str, ...], out: Path | None,
           folders: Folders, *, val_share: float, test_share: float, seed: int, threads: int | None,
           on_error: Literal["fail", "skip"], format_: str, **encoding_options: Any) -> list[tuple[Path, "Manifest"]]:
    from pydantic import ValidationError

    from harness import console, environment
    from harness.raw import raw_folder
    from harness.settings import DataSettings
    from writers.dataset import SplitSettings, open_dataset
    from writers.encode import Encoding
    from writers.errors import UserError
    from writers.subset import everything, named, resolve
    from writers.write import write_split

    try:
        encoding = Encoding(format=format_, **encoding_options)  # type: ignore[arg-type]
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error
    spec = named(subset_name) if subset_name else None
    name = dataset or ("imagenet" if spec else "folder")
    if source is None and name == "folder":
        raise UserError("Say which images: --source DIR, or --dataset NAME.", "harness ls datasets names the datasets.")
    path = source.expanduser() if source else folders.raw / raw_folder(name)
    opened = open_dataset(name, path, SplitSettings(val=val_share, test=test_share, seed=seed))
    subset = resolve(spec, opened.classes) if spec else everything(opened.classes)
    label = DataSettings(dataset=name, path=str(path)).label
    folder = out.expanduser() if out else folders.data / f"{label}-{subset.name}"
    written = []
    for split in _asked_splits(splits, opened.splits):
        file = folder / f"{split}.beton"
        with console.progress(f"write {split}") as report:
            written.append((file, write_split(opened, split, subset, encoding, file, seed=seed, progress=report,
                                              num_threads=threads or environment.num_cores(), on_error=on_error)))
    return written


def _asked_splits(asked: tuple[str, ...], there: "Mapping[str, Sequence[Any]]") -> list[str]:
    """The splits to write: those asked for, else all that have images. Raises UserError for one that is not there."""
    from writers import names

    filled = [split for split, examples in there.items() if examples]
    for split in asked:
        if split not in filled:
            raise names.unknown("split with images", split, filled)
    return list(asked) or filled
