"""Labeled images, however they are stored. A file of `writers/sources/` reads one kind of storage.

Each image gets the name that it would have in a tree of class folders, such as `cat/1.jpg`.
Classes, labels, sample ids and drawn splits are derived from these names in this module, in the
same way for all kinds of storage. The same images therefore give the same `.beton` file, byte for
byte, from a folder, an archive or shards.
"""

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from writers import names
from writers.errors import UserError
from writers.folder_rules import BY_NAME, FolderRules
from writers.formats.files import Files
from writers.found_images import FoundImages, Images, joined
from writers.omissions import Omission, OmissionLog
from writers.split_names import NO_SPLIT
from writers.text_names import counted, printable

if TYPE_CHECKING:
    import numpy as np

KINDS = "writers.sources"


@dataclass(frozen=True, slots=True)
class BoxLabel:
    """A box around an object, in pixels of the image file. If the image is resized, so is the box.

    The first pixel extends from 0 to 1; right and bottom are exclusive.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: int  # class of the object
    difficult: bool = False  # hard to recognize; the metric ignores such objects


@dataclass(frozen=True, slots=True)
class Example:
    """An image: its key in the source (`train/cat/1.jpg`), its label, and its name (`cat/1`).

    `name` is `<class>/<path below the class without extension>`, or only the name of the file if
    images have several labels. It is unique in a split. The sample's id is derived from it.
    """

    key: str
    label: int  # class; if there are `labels`, the class by which splits are drawn
    name: str
    # several labels, one per class: 1 present, -1 absent, 0 difficult; None means one label
    labels: tuple[int, ...] | None = None
    boxes: tuple[BoxLabel, ...] | None = None  # boxes of all objects, if the source has boxes
    # width and height of the image file according to the annotation of its boxes; None if unknown
    annotated_size: tuple[float, float] | None = None


@dataclass(frozen=True)
class SplitSettings:
    """Settings of the splits: how to draw missing splits from train, and how to read folders.

    `val` and `test` are fractions of each class's images, drawn by `seed`. `protocol` selects named
    splits of the dataset's `SPEC.protocols`; None means the dataset's default. `folders` decides
    which folders of a tree are splits, and which are classes. If `skip_damaged`, readers of
    annotations add images with damaged annotations to `Source.damaged` instead of raising an error.
    Raises UserError unless `val` + `test` is less than 1.
    """

    val: float = 0.1
    test: float = 0.0
    seed: int = 0
    protocol: str | None = None
    folders: FolderRules = BY_NAME
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        if self.val + self.test >= 1:
            raise UserError(
                f"val is {self.val:g} and test is {self.test:g} of the training images, which "
                "leaves none to train on.",
                "Choose fractions whose sum is below 1.",
            )


@dataclass
class Source:
    """Images of a dataset: class names in label order, and examples by split, sorted by key."""

    name: str
    origin: str  # name of the folder or archive
    classes: list[str]
    splits: dict[str, list[Example]]
    files: Files = field(repr=False)
    prefix: str = ""  # folders around the tree, such as `data/`; name in `files` = prefix + key
    multi_label: bool = False  # examples have `labels`
    protocol: str | None = None  # name of the splits; None means the dataset's own
    # accepted differences from published counts
    differences: list[str] = field(default_factory=list)
    # key -> reason, for images that are known to be unusable; the writer skips them
    damaged: Mapping[str, str] = field(default_factory=dict)
    omissions: Sequence[Omission] = ()  # files and records that are not read
    lenient: Collection[str] = ()  # keys of slightly damaged JPEGs, stored as Pillow decodes them

    def read(self, example: Example) -> bytes:
        """Read the image file. Raises OSError."""
        return self.files.read(self.prefix + example.key)

    def where(self, example: Example) -> str:
        """Describe the location of an image for messages."""
        return printable(self.files.where(self.prefix + example.key))

    @property
    def has_boxes(self) -> bool:
        """True if examples have boxes. They then also have `labels`."""
        examples = (example for split in self.splits.values() for example in split)
        first = next(examples, None)
        return first is not None and first.boxes is not None

    def class_counts(self) -> dict[str, int]:
        """Return the number of training images of each class."""
        counts = Counter(example.label for example in self.splits["train"])
        return {name: counts[label] for label, name in enumerate(self.classes)}


# Maps keys of images outside class folders to their classes, as far as these are known.
ClassesOf = Callable[[Collection[str]], Mapping[str, str]]


def open_source(
    path: Path | Sequence[Path],
    settings: SplitSettings,
    *,
    name: str,
    exclude: Collection[str] = (),
    classes: Sequence[str] | None = None,
    classes_of: "ClassesOf | None" = None,
    known: Collection[str] = (),
) -> Source:
    """Open the images at one or several paths.

    Each of several paths contains a split or a part of one.

    Args:
        path: a folder, archive or shard, or a list of them.
        settings: how to draw missing splits.
        name: name of the dataset.
        exclude: classes to ignore.
        classes: known classes in label order; others are refused, and classes without images are
            omitted. None uses the sorted class names.
        classes_of: returns key -> class for images outside class folders, as far as it is known.
        known: names of files in a tree that have another purpose; they are not reported.

    Raises:
        UserError: a path does not exist or cannot be read, there are no images to train on, or an
            image's class is not one of `classes`.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    if twice := [place for place, times in Counter(paths).items() if times > 1]:
        raise UserError(f"{twice[0]} is given twice as a source.", "Name each place once.")
    found_images = joined(
        {place: _find(place, classes, settings.folders, known) for place in paths}
    )
    found_images = _labeled(found_images, classes_of)
    refuse_unclear_splits(found_images.splits, paths)
    labels = found_images.labels
    there = (
        {name for images in found_images.splits.values() for name, _ in images.values()}
        if labels is None
        else {name for own in labels.values() for name in own}
    )
    if not there and labels is not None:
        raise UserError(f"No image of {paths[0]} has a label.")
    if classes is not None and (unknown := sorted(there - set(classes) - set(exclude))):
        raise UserError(
            f"{paths[0]} has images of {counted(len(unknown), 'class')} that {name} lacks, "
            f"such as {unknown[0]}.",
            f"Its classes are {classes[0]}, {classes[1]}, ... Images of your own need the dataset "
            "`folder`.",
        )
    kept = [
        class_name
        for class_name in (classes or sorted(there))
        if class_name in there and class_name not in exclude
    ]
    label = {class_name: number for number, class_name in enumerate(kept)}
    splits = {
        split: named_examples(images, label)
        if labels is None
        else examples_of_many({key: image for key, (_, image) in images.items()}, labels, label)
        for split, images in found_images.splits.items()
    }
    train = splits.get("train") or splits.get(NO_SPLIT, [])
    splits = carve(train, splits.get("val", []), splits.get("test", []), settings)
    return Source(
        printable(name),
        printable(" + ".join(place.name for place in paths)),
        kept,
        splits,
        found_images.files,
        found_images.prefix,
        multi_label=labels is not None,
        omissions=found_images.omissions,
    )


def named_examples(images: Images, label: Mapping[str, int]) -> list[Example]:
    """Make examples of the images of these classes, sorted by key and named `<class>/<image>`.

    Extensions are left out, because they differ between archives of the same images. If two names
    would then be equal, extensions are kept.
    """
    paths = {
        key: f"{class_name}/{image}"
        for key, (class_name, image) in sorted(images.items())
        if class_name in label
    }
    stems = [stem_of(path) for path in paths.values()]
    times = Counter(stems)
    return [
        Example(key, label[images[key][0]], stem if times[stem] == 1 else path)
        for (key, path), stem in zip(paths.items(), stems, strict=True)
    ]


def examples_of_many(
    images: Mapping[str, str], labels: Mapping[str, Sequence[str]], label: Mapping[str, int]
) -> list[Example]:
    """Make examples of images with several labels, sorted by key and named by file.

    Missing splits are drawn by the first class of each image.

    Args:
        images: key -> path of the image, with or without folders.
        labels: key -> classes that are present. Classes that are not in `label` are left out.
        label: class -> its number.
    """
    names = {key: stem_of(image.rsplit("/", 1)[-1]) for key, image in images.items()}
    for longer in (images, {key: key for key in images}):
        times = Counter(names.values())
        names = {key: name if times[name] == 1 else longer[key] for key, name in names.items()}
    examples = []
    for key in sorted(images):
        present = {label[name] for name in labels[key] if name in label}
        marks = tuple(1 if number in present else -1 for number in range(len(label)))
        examples.append(Example(key, min(present, default=0), names[key], marks))
    return examples


def ids_of(examples: Sequence[Example]) -> "np.ndarray":
    """Return sample ids, uint64 [N]."""
    from writers.random_streams import sample_ids

    return sample_ids(example.name for example in examples)


def carve(
    train: list[Example], val: list[Example], test: list[Example], settings: SplitSettings
) -> dict[str, list[Example]]:
    """Draw missing val and test splits from train, class by class.

    The images of a class are ordered by a function of name and seed, and the last ones are taken.
    If images are added or removed, most others therefore keep their split. At least one image of
    each class remains in train. If a class has three images or more, each drawn split gets at least
    one of them.
    """
    from writers.random_streams import random_bits

    shares = (0.0 if test else settings.test, 0.0 if val else settings.val)
    if not any(shares):
        return {"train": train, "val": val, "test": test}
    by_class = defaultdict(list)
    for example in train:
        by_class[example.label].append(example)
    carved: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for examples in by_class.values():
        examples = [
            examples[index]
            for index in random_bits(settings.seed, "split", ids_of(examples)).argsort(
                kind="stable"
            )
        ]
        total, num_left = len(examples), len(examples) - 1
        for part, share in zip(carved, shares, strict=False):
            number = min(num_left, max(int(share * total + 0.5), int(share > 0 and total >= 3)))
            num_left -= number
            part += [examples.pop() for _ in range(number)]
        carved[2].extend(examples)
    new_test, new_val, left = (sorted(part, key=lambda example: example.key) for part in carved)
    return {"train": left, "val": val or new_val, "test": test or new_test}


def unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated class names, which are different classes: crane, heron, crane (2)."""
    given, used = set(names), set[str]()
    unique: list[str] = []
    for name in names:
        number, own = 2, name
        while own in used or (own != name and own in given):
            own, number = f"{name} ({number})", number + 1
        used.add(own)
        unique.append(own)
    return unique


def layouts() -> str:
    """Describe the accepted layouts, for error messages."""
    kinds = sorted(_kinds(), key=lambda kind: not kind.__name__.endswith(".tree"))
    return "Accepted: " + "; ".join(kind.LAYOUT for kind in kinds) + "."


def below_class(path: str, class_name: str) -> str:
    """Return an image's path below its class folder, or its file name if it has no such folder."""
    return (
        path.rpartition(f"{class_name}/")[2]
        if f"/{class_name}/" in f"/{path}"
        else path.rsplit("/", 1)[-1]
    )


def refuse_unclear_splits(splits: Mapping[str, Collection[object]], paths: Sequence[Path]) -> None:
    """Raise UserError if only some images have a split, or if all are in val or test."""
    there = {split for split, images in splits.items() if images}
    if NO_SPLIT in there and len(there) > 1:
        raise UserError(f"{paths[0]}: some images have a split, and others have none.", layouts())
    if not there & {"train", NO_SPLIT}:
        raise UserError(
            f"{' and '.join(map(str, paths))} has no images to train on{', only ' * bool(there)}"
            f"{' and '.join(sorted(there))}.",
            layouts(),
        )


def stem_of(path: str) -> str:
    """Return a path without the extension of its last part."""
    folder, slash, file = path.rpartition("/")
    return f"{folder}{slash}{file.rsplit('.', 1)[0] or file}"


def _find(
    path: Path, classes: Sequence[str] | None, rules: FolderRules, known: Collection[str]
) -> FoundImages:
    """Find images by the first kind of source that recognizes the path, or as a tree of folders.

    The arguments are those of `open_source`; `classes` is None if the dataset defines none. Raises
    UserError if the path does not exist or cannot be read, or if `rules` have no effect.
    """
    if not path.exists():
        raise UserError(f"There is no folder or archive {path}.", layouts())
    if not (path.is_dir() or path.is_file()):  # opening a pipe would wait for its writer
        raise UserError(f"{path} is a pipe or a device, not a file.", layouts())
    try:
        kind = next(
            (kind for kind in _kinds() if hasattr(kind, "recognize") and kind.recognize(path)), None
        )
        found_images: FoundImages
        if kind is not None and not rules.is_default:
            raise UserError(
                f"{path} is not a tree of folders: rules for its folders have no effect.",
                "Remove --split-folders and --class-level.",
            )
        if kind is None:
            tree = importlib.import_module(f"{KINDS}.tree")
            found_images = tree.find(path, classes, rules, known)
        else:
            found_images = kind.find(path, classes)
        return found_images
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read: {error.strerror or error}."
        ) from error


def _kinds() -> Iterator[ModuleType]:
    return (importlib.import_module(f"{KINDS}.{name}") for name in names.names(KINDS))


def _labeled(found_images: FoundImages, classes_of: ClassesOf | None) -> FoundImages:
    """Add the images outside class folders if `classes_of` knows their classes.

    The others, or all of them if it is None, are counted as omitted.
    """
    if not found_images.unlabeled:
        return found_images
    omitted = OmissionLog()
    omitted.extend(found_images.omissions)
    splits = {split: dict(images) for split, images in found_images.splits.items()}
    for split, keys in found_images.unlabeled.items():
        class_of = classes_of(keys) if classes_of else {}
        for key in keys:
            if key in class_of:
                splits.setdefault(split, {})[key] = class_of[key], key.rsplit("/", 1)[-1]
            else:
                omitted.add("images outside class folders, which have no label", key)
    return replace(found_images, splits=splits, unlabeled={}, omissions=omitted.omissions())
