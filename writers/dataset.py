"""What a dataset is, and how one is opened: the contract of the files in `writers/datasets/`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from writers import names
from writers.datasets._vtab import NUM_TRAIN, NUM_VAL, VTAB, vtab_1k
from writers.errors import UserError
from writers.source import Source, SplitSettings

__all__ = ["DatasetSpec", "SplitSettings", "open_dataset"]

PROTOCOLS = {
    "salman": "Salman et al. 2020, Do adversarially robust ImageNet models transfer better?",
    "kornblith": "Kornblith et al. 2019, Do better ImageNet models transfer better?",
    "vtab": "Zhai et al. 2019, A large-scale study of representation learning: 800 images to train on, 200 to choose by",
    "official": "train, val and test as they were published, where others put train and val together",
    "carved": "test and val by the shares that a person gives, for a source without published splits",
}


@dataclass(frozen=True)
class Download:
    """One file that a dataset is made of, as its publisher hands it out. `harness download` fetches it."""

    file: str  # where it goes, below the dataset's folder
    url: str = ""  # empty: its host is gone or asks for an account; a person places it
    checksum: str = ""  # "md5:..." or "sha256:..."; empty: none is published
    num_bytes: int | None = None
    unpack: bool = (
        False  # the reader wants what the archive holds, unpacked in the archive's folder
    )
    inside: str = ""  # the file named before that it comes out of, when that is unpacked


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a dataset before it is there."""

    name: str
    title: str
    metric: Literal[
        "top1", "mean_per_class", "map11"
    ]  # map11: 11-point mean average precision, of many labels an image
    num_classes: int | None = None  # None: what the folders say
    split_sizes: dict[str, int] = field(
        default_factory=dict
    )  # of the official splits, where there are some
    licence: str = ""
    citation: str = ""
    where: str = ""  # how a person gets it
    protocols: tuple[str, ...] = ()  # whose splits it can be read in, beside its own (`PROTOCOLS`)
    default_protocol: str | None = (
        None  # what is meant where a person names none; None: its own splits
    )
    protocol_sizes: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # where they differ from split_sizes; {}: any
    protocol_classes: dict[str, int] = field(
        default_factory=dict
    )  # where they differ from num_classes
    folder: str = ""  # of its raw files, where several datasets are made of the same; else `name`
    downloads: tuple[
        Download, ...
    ] = ()  # its files; which layouts are accepted, the dataset's file says
    generated: bool = False  # made on first use: nothing to get
    often_partial: bool = (
        False  # people write parts of it, and its counts are not held against them
    )

    def sizes(self, protocol: str | None) -> dict[str, int]:
        """Images of each split as a protocol has them."""
        sizes = self.protocol_sizes.get(protocol or "", self.split_sizes)
        return (
            {**sizes, "train": NUM_TRAIN, "val": NUM_VAL} if protocol == VTAB and sizes else sizes
        )

    def classes(self, protocol: str | None) -> int | None:
        """Classes, likewise."""
        return self.protocol_classes.get(protocol or "", self.num_classes)


def spec_of(name: str) -> DatasetSpec:
    """Raises UserError, with the near names, for an unknown dataset."""
    spec: DatasetSpec = names.find("writers.datasets", name, "dataset").SPEC
    return spec


def open_dataset(name: str, path: Path | Sequence[Path], settings: SplitSettings) -> Source:
    """Open the dataset `name`, whose images lie at `path`, or at several places, where its file has `open_all`.

    Raises UserError for an unknown name or protocol, for what is not there or does not fit, and for a val that is the test set.
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
            f"{module.SPEC.name} is read from one place, not {len(paths)}.",
            "Name the folder of them.",
        )
    settings = replace(settings, protocol=settings.protocol or module.SPEC.default_protocol)
    source: Source = (
        module.open(paths[0], settings) if len(paths) == 1 else module.open_all(paths, settings)
    )
    _refuse_test_as_val(source, paths[0])
    if settings.protocol == VTAB:
        source.splits = vtab_1k(source.splits, settings.seed, source.name)
    source.protocol = settings.protocol
    return source


COMPARED = 16  # images, of which each has to be the same


def _refuse_test_as_val(source: Source, path: Path) -> None:
    """Some mirrors have the test set twice, as val/ and test/. Hyperparameters must not be chosen on it."""
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
    except OSError:  # the writer says of every unreadable image what is wrong
        return
    if same:
        raise UserError(
            f"In {path}, val and test are the same images: a choice made on val would be made on the test set.",
            "Remove its val; one is then carved out of train.",
        )
