"""Contract of datasets. Each file of `writers/datasets/` is one dataset.

A file defines `SPEC`, a `DatasetSpec`, and `open(path: Path, settings: SplitSettings) -> Source`,
which opens the raw files at `path`, a folder or an archive, and draws missing splits according to
`settings`. It may define `open_all(paths, settings)`, which opens several paths as one dataset. To
implement `open`, use `open_source` of `writers.source` for trees of class folders, and the readers
of `writers.formats` for other layouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from writers import names
from writers.datasets._vtab import NUM_TRAIN, NUM_VAL, VTAB, vtab_1k
from writers.errors import UserError
from writers.source import Source, SplitSettings

if TYPE_CHECKING:
    from writers.labels.settings import LabelTable

__all__ = ["DatasetSpec", "SplitSettings", "open_dataset"]

PROTOCOLS = {
    "salman": "Salman et al. 2020, Do adversarially robust ImageNet models transfer better?",
    "kornblith": "Kornblith et al. 2019, Do better ImageNet models transfer better?",
    "vtab": "Zhai et al. 2019, A large-scale study of representation learning: 800 training and "
    "200 validation images",
    "official": "train, val and test as published; other protocols merge train and val",
    "carved": "test and val by given fractions, for a source without published splits",
}


@dataclass(frozen=True)
class Download:
    """A published file of a dataset. `harness download` downloads it."""

    file: str  # path relative to the dataset's folder
    url: str = ""  # "" if the user must get the file: its host is gone or needs an account
    checksum: str = ""  # "md5:..." or "sha256:...", empty if none is published
    num_bytes: int | None = None  # size of the file; None if none is published
    unpack: bool = False  # unpack the file into its own folder
    inside: str = ""  # earlier file of `downloads` that this one is unpacked from


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about a dataset, known without its files."""

    name: str  # name of the module in `writers/datasets`
    title: str  # name in messages and dataset cards
    # map11: mean average precision at 11 recalls, for several labels per image
    # map50_11: mean average precision at 11 recalls, for boxes at an intersection over union of 0.5
    metric: Literal["top1", "mean_per_class", "map11", "map50_11"]
    num_classes: int | None = None  # None means the number of class folders
    split_sizes: dict[str, int] = field(default_factory=dict)  # official splits, if any
    license: str = ""
    citation: str = ""
    where: str = ""  # how to get the dataset
    protocols: tuple[str, ...] = ()  # further named splits, keys of `PROTOCOLS`
    default_protocol: str | None = None  # None means the splits as published
    # protocol -> images per split, if they differ from split_sizes; {} allows any sizes
    protocol_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    # protocol -> number of classes, if it differs from num_classes
    protocol_classes: dict[str, int] = field(default_factory=dict)
    folder: str = ""  # folder of raw files, if several datasets share it; by default `name`
    downloads: tuple[Download, ...] = ()  # published files; the module documents accepted layouts
    generated: bool = False  # images are generated on first use
    version: int | None = None  # version of generated images; None for other datasets
    often_partial: bool = False  # do not check counts: people often use a part of the dataset

    def sizes(self, protocol: str | None) -> dict[str, int]:
        """Return the number of images per split under a protocol.

        None means the splits as published. The result is empty if the numbers are unknown or may be
        any.
        """
        sizes = self.protocol_sizes.get(protocol or "", self.split_sizes)
        return (
            {**sizes, "train": NUM_TRAIN, "val": NUM_VAL} if protocol == VTAB and sizes else sizes
        )

    def classes(self, protocol: str | None) -> int | None:
        """Return the published number of classes under a protocol; None if none is published."""
        return self.protocol_classes.get(protocol or "", self.num_classes)


def spec_of(name: str) -> DatasetSpec:
    """Return a dataset's specification. Raises UserError with similar names if it is unknown."""
    spec: DatasetSpec = names.find("writers.datasets", name, "dataset").SPEC
    return spec


def open_dataset(
    name: str,
    path: Path | Sequence[Path],
    settings: SplitSettings,
    labels: "LabelTable | None" = None,
) -> Source:
    """Open the dataset `name` at a path, or at several paths if its module has `open_all`.

    Args:
        name: name in `writers/datasets`.
        path: folder or archive, or a list of them.
        settings: how to draw missing splits.
        labels: table of the images' labels. None means that labels follow from the layout.

    Raises:
        UserError: the name or protocol is unknown, `settings` or `labels` do not apply to the
            dataset, files are missing or unexpected, or val equals test.
    """
    paths = [Path(path)] if isinstance(path, Path | str) else list(path)
    module = names.find("writers.datasets", name, "dataset")
    if settings.protocol not in (None, *module.SPEC.protocols):
        known = (
            f"It has {', '.join(module.SPEC.protocols)}."
            if module.SPEC.protocols
            else "It has its own splits only."
        )
        raise UserError(f"{module.SPEC.name} has no splits called '{settings.protocol}'.", known)
    if len(paths) > 1 and not hasattr(module, "open_all"):
        raise UserError(
            f"{module.SPEC.name} is read from one path, not {len(paths)}.",
            "Give the folder that contains them.",
        )
    settings = replace(settings, protocol=settings.protocol or module.SPEC.default_protocol)
    if not settings.folders.is_default and (module.SPEC.name != "folder" or labels is not None):
        raise UserError(
            "Rules for folders have an effect on dataset folder only: any tree of class folders.",
            "Remove --split-folders and --class-level.",
        )
    source: Source
    if labels is not None:
        source = _open_with_labels(module.SPEC, paths, settings, labels)
    elif len(paths) == 1:
        source = module.open(paths[0], settings)
    else:
        source = module.open_all(paths, settings)
    _refuse_test_as_val(source, paths[0])
    if settings.protocol == VTAB:
        source.splits = vtab_1k(source.splits, settings.seed, source.name)
    source.protocol = settings.protocol
    return source


def _open_with_labels(
    spec: DatasetSpec, paths: Sequence[Path], settings: SplitSettings, labels: "LabelTable"
) -> Source:
    from writers.labels.source import open_labeled

    if spec.name != "folder":
        raise UserError(
            f"{spec.name} defines its labels; a table of labels has no effect.",
            "Use the dataset folder, which is any folder of images, or remove the table.",
        )
    if len(paths) > 1:
        raise UserError(
            f"A table of labels needs one folder or archive of images, not {len(paths)}.",
            "Give the folder that contains them.",
        )
    return open_labeled(paths[0], labels, settings, paths[0].name.split(".")[0])


COMPARED = 16  # images of val that are compared with test


def _refuse_test_as_val(source: Source, path: Path) -> None:
    """Raise UserError if val and test are the same images, as in some mirrors.

    Hyper-parameters would be chosen on the test set. Compares all names, and COMPARED images.
    """
    val, test = (
        {example.name: example for example in source.splits.get(split, [])}
        for split in ("val", "test")
    )
    if not val or val.keys() != test.keys():
        return
    try:
        same = all(
            source.read(val[name]) == source.read(test[name]) for name in sorted(val)[:COMPARED]
        )
    except OSError:  # the writer reports unreadable images
        return
    if same:
        raise UserError(
            f"In {path}, val and test are the same images: choosing on val would choose on the "
            "test set.",
            "Remove its val; it is then drawn from train.",
        )
