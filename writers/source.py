"""Images with labels, as they lie on disk: any tree of class folders, or an uncompressed tar or a zip of one, read there.

    train/cat/1.jpg  val/cat/2.jpg  test/cat/3.jpg      the splits as they are (also valid/, validation/)
    cat/1.jpg  dog/2.jpg                                splits carved by a seeded draw

Folders around such a tree (`caltech101/101_ObjectCategories/cat/1.jpg`) are passed over; so are files that are no images.
"""

import os
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from writers.draws import draw, sample_ids
from writers.errors import UserError
from writers.zips import ZipFiles

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ACCEPTED = ("Accepted: train/<class>/*.jpg with or without val/ and test/, or <class>/*.jpg; as a folder or as an "
            "uncompressed .tar or a .zip of it.")


@dataclass(frozen=True, slots=True)
class Example:
    """One image: where its source has it (`train/cat/1.jpg`), its label, and what it is called in every source (`cat/1`).

    `name`, `<class>/<path below the class without its ending>`, is unique in a split; the sample's id is made of it.
    """

    key: str
    label: int                              # where there are `labels`: the class that splits are carved by
    name: str
    labels: tuple[int, ...] | None = None   # multi-label: of each class, 1 it is there, -1 it is not, 0 there but difficult


@dataclass(frozen=True)
class SplitSettings:
    """How splits are carved out of train where a tree has none: shares of each class's images, drawn by `seed`.

    protocol: whose splits a benchmark is read in, of the dataset's `SPEC.protocols`; None: the dataset's own.
    """

    val: float = 0.1
    test: float = 0.0
    seed: int = 0
    protocol: str | None = None


class Files(Protocol):
    """The image files of a folder or an archive."""

    def names(self) -> Sequence[str]:
        """Paths below the root, with / between folders."""

    def read(self, name: str) -> bytes:
        """One file's bytes; may be called by several threads."""

    def where(self, name: str) -> str:
        """The file, in words for an error message."""


@dataclass
class Source:
    """The images of one dataset: class names in label order, and each split's examples sorted by key."""

    name: str
    origin: str                         # the folder's or archive's own name
    classes: list[str]
    splits: dict[str, list[Example]]
    files: Files = field(repr=False)
    prefix: str = ""                    # folders around the tree
    multi_label: bool = False           # examples have `labels`
    protocol: str | None = None         # whose splits these are; None: the dataset's own

    def read(self, example: Example) -> bytes:
        """The image file's bytes. Raises OSError."""
        return self.files.read(self.prefix + example.key)

    def where(self, example: Example) -> str:
        return self.files.where(self.prefix + example.key)

    def class_counts(self) -> dict[str, int]:
        """Training images of each class."""
        counts = Counter(example.label for example in self.splits["train"])
        return {name: counts[label] for label, name in enumerate(self.classes)}


def ids_of(examples: Sequence[Example]) -> np.ndarray:
    """uint64 [N]."""
    return sample_ids(example.name for example in examples)


def open_tree(path: Path, settings: SplitSettings, *, name: str, exclude: Collection[str] = (),
              classes: Sequence[str] | None = None) -> Source:
    """A tree of class folders, or a tar of one, without the classes `exclude`.

    `classes`: the known classes in label order; others are refused, and those without a folder are left out. None: the
    folders' names, sorted. Raises UserError for a tree without images, and for folders that do not fit the layout.
    """
    files = open_files(path)
    prefix, names = _without_wrapping(files.names())
    if not names:
        raise UserError(f"{path} has no images in class folders.", ACCEPTED)
    by_split = _given_splits(names, path)
    found = {_class_of(key, split) for split, keys in by_split.items() for key in keys}
    if isinstance(files, FolderFiles):
        _refuse_empty_folders(path / prefix, found)
    if classes is not None and (unknown := sorted(found - set(classes) - set(exclude))):
        raise UserError(f"{path} has {len(unknown)} folders that are no classes of {name}, such as {unknown[0]}.",
                        f"Its classes are {classes[0]}, {classes[1]}, ...")
    kept = [folder for folder in (classes or sorted(found)) if folder in found and folder not in exclude]
    label = {folder: number for number, folder in enumerate(kept)}
    splits = {split: named_examples({key: label[folder] for key in sorted(keys) if (folder := _class_of(key, split)) in label},
                                    below=split)
              for split, keys in by_split.items()}
    train = splits.get("train") or splits.get("", [])
    return Source(name, path.name, kept, carve(train, splits.get("val", []), splits.get("test", []), settings), files, prefix)


def named_examples(labels: Mapping[str, int], *, below: str) -> list[Example]:
    """Examples of these keys, called as their paths below the split's folder (where `below` is not empty: one folder).

    Endings are left out (they differ between archives of the same images), unless two images would be called the same.
    """
    paths = {key: key.split("/", 1)[1] if below else key for key in labels}
    stems = {key: path.rsplit(".", 1)[0] for key, path in paths.items()}
    times = Counter(stems.values())
    return [Example(key, label, stems[key] if times[stems[key]] == 1 else paths[key]) for key, label in labels.items()]


def carve(train: list[Example], val: list[Example], test: list[Example], settings: SplitSettings) -> dict[str, list[Example]]:
    """Carve what is missing of val and test out of train, class by class.

    A class's images stand in an order that is a function of their names and the seed alone, and the first of them go: when
    images come or go, few others change sides. At least one image of a class is left in train; a class of three or more
    gives at least one to each.
    """
    shares = (0.0 if test else settings.test, 0.0 if val else settings.val)
    if not any(shares):
        return {"train": train, "val": val, "test": test}
    by_class = defaultdict(list)
    for example in train:
        by_class[example.label].append(example)
    carved: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for examples in by_class.values():
        examples = [examples[index] for index in np.argsort(draw(settings.seed, "split", ids_of(examples)), kind="stable")]
        total, num_left = len(examples), len(examples) - 1
        for part, share in zip(carved, shares, strict=False):
            number = min(num_left, max(int(share * total + 0.5), int(share > 0 and total >= 3)))
            num_left -= number
            part += [examples.pop() for _ in range(number)]
        carved[2].extend(examples)
    new_test, new_val, left = (sorted(part, key=lambda example: example.key) for part in carved)
    return {"train": left, "val": val or new_val, "test": test or new_test}


def split_of(folder: str) -> str | None:
    """The split that a folder of this name holds, in any case; None: it holds no split."""
    return SPLIT_FOLDERS.get(folder.lower())


def open_files(path: Path, keep: Callable[[str], bool] | None = None) -> Files:
    """The files below a folder, or in an uncompressed tar or a zip: those whose path `keep` says yes to; None: the images.

    Raises UserError for anything else.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return FolderFiles(path, keep or _is_image)
        if path.is_file():
            archive = ZipFiles if zipfile.is_zipfile(path) else TarFiles
            return archive(path, keep or _is_image)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error
    raise UserError(f"There is no folder or archive {path}.", ACCEPTED)


class FolderFiles:
    def __init__(self, root: Path, keep: Callable[[str], bool]) -> None:
        self._root = root
        self._names = [name for name in _walk(str(root), "") if keep(name)]

    def names(self) -> Sequence[str]:
        return self._names

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def where(self, name: str) -> str:
        return str(self._root / name)


class TarFiles:
    """Members are read by their place in the archive; nothing is unpacked."""

    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        self._path = path
        self._members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = PurePosixPath(member.name)
                    if name.is_absolute() or ".." in name.parts:
                        raise UserError(f"{path} names a file outside itself: {member.name}", "Do not trust this archive.")
                    if member.isfile() and keep(str(name)):
                        self._members[str(name)] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise UserError(f"{path} is not a whole, uncompressed tar archive: {error}", ACCEPTED) from error

    def names(self) -> Sequence[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        offset, size = self._members[name]
        with self._path.open("rb", buffering=0) as archive:     # its own place in the file: several threads read
            data = os.pread(archive.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"the archive ends inside {name}")
        return data

    def where(self, name: str) -> str:
        return f"{self._path}:{name}"


class JoinedFiles:
    """Several folders or archives as one; where two have a file of one name, the first counts."""

    def __init__(self, parts: Sequence[Files]) -> None:
        self._part_of = {name: part for part in reversed(parts) for name in part.names()}

    def names(self) -> Sequence[str]:
        return list(self._part_of)

    def read(self, name: str) -> bytes:
        return self._part_of[name].read(name)

    def where(self, name: str) -> str:
        return self._part_of[name].where(name)


def _walk(folder: str, prefix: str) -> Iterator[str]:
    """Files below `folder`, those in hidden folders left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_ENDINGS) and not path.rsplit("/", 1)[-1].startswith(".")


def _without_wrapping(names: Sequence[str]) -> tuple[str, list[str]]:
    """Strip folders that hold everything, as long as class folders remain; files beside class folders are passed over."""
    prefix = ""
    inner = [name for name in names if "/" in name]
    while inner:
        first = inner[0].split("/", 1)[0]
        wraps = split_of(first) is None and all(name.startswith(f"{first}/") for name in inner)
        deeper = [name[len(first) + 1:] for name in inner if name.count("/") > 1]
        if not wraps or not deeper:
            break
        prefix, inner = f"{prefix}{first}/", deeper
    return prefix, inner


def _given_splits(names: Sequence[str], path: Path) -> dict[str, list[str]]:
    """Keys by split; all under "" where the tree has class folders at its top."""
    splits = {folder: split_of(folder) for folder in sorted({name.split("/", 1)[0] for name in names})}
    if all(splits.values()) and "train" not in splits.values():
        raise UserError(f"{path} has {'/ and '.join(splits)}/, and no train/.", ACCEPTED)
    if "train" not in splits.values():
        return {"": list(names)}
    if strangers := [folder for folder, split in splits.items() if split is None]:
        raise UserError(f"{path} has images in {strangers[0]}/ beside train/; its splits are unclear.", ACCEPTED)
    by_split: dict[str, list[str]] = {}
    for name in names:
        split = splits[name.split("/", 1)[0]]
        if split and name.count("/") > 1:
            by_split.setdefault(split, []).append(name)
    return by_split


def _class_of(key: str, split: str) -> str:
    return key.split("/", 2)[1 if split else 0]


def _refuse_empty_folders(root: Path, found: Collection[str]) -> None:
    """A class folder without images is a mistake of copying or unpacking; better said now than seen in the results."""
    folder = next((entry for entry in root.iterdir() if split_of(entry.name) == "train"), root)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in found:
            raise UserError(f"The class folder {entry} has no images.", "Fill it or remove it.")
