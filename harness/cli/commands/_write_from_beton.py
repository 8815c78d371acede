"""`harness write-beton --from`: copy a subset from .beton files, or convert all their samples."""

from pathlib import Path
from typing import Literal

from harness.cli import console
from harness.cli.commands import _label_options
from harness.cli.options import refuse_given
from harness.system import environment
from harness.system.folders import Folders
from writers import names
from writers.beton.class_counts import training_images
from writers.beton.convert import add_index, to_dct, to_jpeg
from writers.beton.copy import copy_subset
from writers.beton.provenance import inherit
from writers.beton.store import Manifest, open_beton
from writers.beton.verify import verify
from writers.errors import UserError
from writers.subset.spec import named, resolve

# Options of write-beton that decide how images are read and encoded.
OPTIONS_OF_IMAGES = frozenset(
    {
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
        "split_folders",
        "class_level",
        *_label_options.PARAMETERS,
    }
)
Conversion = Literal["index", "dct", "passthrough"]
CONVERTERS = {"index": add_index, "dct": to_dct, "passthrough": to_jpeg}


def write(
    from_: Path,
    subset_name: str | None,
    splits: tuple[str, ...],
    out: Path | None,
    folders: Folders,
    *,
    check: bool | None,
    threads: int | None,
    index: bool | None,
    format_: str,
) -> list[tuple[Path, Manifest]]:
    """Copy a subset from betons, or convert all their samples.

    Args:
        from_: a beton, or a folder of betons.
        subset_name: subset to copy; None means all samples are converted.
        splits: splits to write; all of the folder's if empty.
        out: folder to write; None means a folder in the data folder, named by the dataset and the
            subset or format.
        check: True verifies each beton first; None does not. False is refused, as it has no effect.
        threads: number of threads; None means the number of cores.
        index: True adds a restart index (offsets in the JPEG data, to decode only a crop).
        format_: value of --format; dct and passthrough convert.

    Returns:
        New files with their manifests.

    Raises:
        UserError: an option has no effect, or a beton does not exist or is damaged.
    """
    if check is False:
        raise UserError("--no-check has no effect with --from.", "Remove it.")
    conversion = _conversion(subset_name, index=index, format_=format_)
    num_threads = threads or environment.num_cores()
    files = _files(from_.expanduser(), splits)
    written = []
    for split, source in files.items():
        beton = open_beton(source)
        if check:
            _verify(source, split, num_threads)
        if conversion is not None:
            suffix = "dct" if conversion == "dct" else "indexed"
            folder = out.expanduser() if out else folders.data / f"{beton.manifest.name}-{suffix}"
            file = folder / f"{split}.beton"
            verb = "index" if conversion == "index" else "convert"
            with console.progress(f"{verb} {split}") as report:
                manifest = CONVERTERS[conversion](
                    source, file, progress=report, num_threads=num_threads
                )
        else:
            assert subset_name is not None
            subset = resolve(
                named(subset_name), beton.manifest.classes, class_counts=training_images(beton)
            )
            dataset = beton.manifest.dataset
            folder = out.expanduser() if out else folders.data / f"{dataset}-{subset.name}"
            file = folder / f"{split}.beton"
            with console.progress(f"copy {split}") as report:
                manifest = copy_subset(source, subset, file, progress=report)
            inherit(source, file)
        written.append((file, manifest))
    return written


def _conversion(subset_name: str | None, *, index: bool | None, format_: str) -> Conversion | None:
    """Return how all samples are converted; None means a subset is copied.

    Raises:
        UserError: options are missing, contradict each other, or have no effect.
    """
    converts: Conversion | None = (
        "dct" if format_ == "dct" else "passthrough" if format_ == "passthrough" else None
    )
    refuse_given(
        {"restart_index" if converts else "format_", *OPTIONS_OF_IMAGES},
        "with --from, which copies samples unchanged",
        "Remove it, or write from the images with --source.",
    )
    if subset_name is not None and converts:
        raise UserError(
            f"--format {converts} has no effect with --from and --subset, which copy samples "
            "unchanged.",
            "Convert all classes first, then copy the subset from the new beton.",
        )
    if (subset_name is None) != bool(index or converts):
        raise UserError(
            "--from needs --subset NAME; or --restart-index, --format dct or --format passthrough "
            "for all classes.",
            "Run two commands if you want both. List the subsets: harness ls subsets",
        )
    return converts or ("index" if index else None)


def _files(from_: Path, splits: tuple[str, ...]) -> dict[str, Path]:
    """Return the betons to read by split: those of `splits`, all if it is empty."""
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
    return {split: files[split] for split in splits or files}


def _verify(file: Path, split: str, num_threads: int) -> None:
    """Raise UserError if a beton is damaged."""
    with console.progress(f"verify {split}", "samples") as report:
        problems = verify(file, report, num_threads=num_threads)
    if problems:
        raise UserError(
            f"{file} is damaged: {problems[0]}",
            f"List all problems: harness verify {file}",
        )
