"""Images with labels, wherever they lie: what every kind of source in `writers/sources/` becomes.

A kind says what an image would be called in a tree of class folders, `cat/1.jpg`. Everything that follows is made of that
here, the same way for all of them: classes and labels, the samples' ids, and the splits that are carved by a seeded draw. So
the same images give the same beton, byte for byte, from a folder, an archive, or shards.
"""

import importlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from writers import names
from writers.errors import UserError
from writers.formats.files import Files

if TYPE_CHECKING:
    import numpy as np

KINDS = "writers.sources"
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
UNSAID = ""  # the split of images of which the source does not say it


@dataclass(frozen=True, slots=True)
class Example:
    """One image: where its source has it (`train/cat/1.jpg`), its label, and what it is called in every source (`cat/1`).

    `name`, `<class>/<path below the class without its ending>`, is unique in a split; the sample's id is made of it.
    """

    key: str
    label: int  # where there are `labels`: the class that splits are carved by
    name: str
    labels: tuple[int, ...] | None = (
        None  # multi-label: of each class, 1 it is there, -1 it is not, 0 there but difficult
    )


@dataclass(frozen=True)
class SplitSettings:
    """How splits are carved out of train where a tree has none: shares of each class's images, drawn by `seed`.

    protocol: whose splits a benchmark is read in, of the dataset's `SPEC.protocols`; None: the dataset's own.
    """

    val: float = 0.1
    test: float = 0.0
    seed: int = 0
    protocol: str | None = None


@dataclass
class Source:
    """The images of one dataset: class names in label order, and each split's examples sorted by key."""

    name: str
    origin: str  # the folder's or archive's own name
    classes: list[str]
    splits: dict[str, list[Example]]
    files: Files = field(repr=False)
    prefix: str = ""  # folders around the tree
    multi_label: bool = False  # examples have `labels`
    protocol: str | None = None  # whose splits these are; None: the dataset's own
    differences: list[str] = field(
        default_factory=list
    )  # from the counts that were published, which a person has accepted
    damaged: Mapping[str, str] = field(
        default_factory=dict
    )  # key -> why, of images known to be beyond use: left out
    lenient: Collection[
        str
    ] = ()  # keys of JPEGs known to be damaged a little: taken as Pillow decodes them

    def read(self, example: Example) -> bytes:
        """The image file's bytes. Raises OSError."""
        return self.files.read(self.prefix + example.key)

    def where(self, example: Example) -> str:
        return self.files.where(self.prefix + example.key)

    def class_counts(self) -> dict[str, int]:
        """Training images of each class."""
        counts = Counter(example.label for example in self.splits["train"])
        return {name: counts[label] for label, name in enumerate(self.classes)}


Images = Mapping[
    str, tuple[str, str]
]  # key -> class, and the image's path below its class's folder: ("cat", "1.jpg")


@dataclass(frozen=True)
class Found:
    """What one place has: images by split (train, val, test, or all of them UNSAID), and where to read them."""

    files: Files
    splits: Mapping[str, Images]
    prefix: str = ""  # before the keys in `files`


def open_source(
    path: Path | Sequence[Path],
    settings: SplitSettings,
    *,
    name: str,
    exclude: Collection[str] = (),
    classes: Sequence[str] | None = None,
) -> Source:
    """The images at one place, or at several that hold the splits or parts of them, without the classes `exclude`.

    `classes`: the known classes in label order; others are refused, and those without an image are left out. None: the
    classes' names, sorted. Raises UserError for a place without images, and for one that is of no kind in `writers/sources/`.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    if twice := [place for place, times in Counter(paths).items() if times > 1]:
        raise UserError(f"{twice[0]} is named twice as a source.", "Name each place once.")
    found = _joined({place: _find(place, classes) for place in paths})
    _refuse_unclear_splits(found, paths)
    there = {class_name for images in found.splits.values() for class_name, _ in images.values()}
    if classes is not None and (unknown := sorted(there - set(classes) - set(exclude))):
        raise UserError(
            f"{paths[0]} has images of {len(unknown)} classes that {name} has not, such as {unknown[0]}.",
            f"Its classes are {classes[0]}, {classes[1]}, ...",
        )
    kept = [
        class_name
        for class_name in (classes or sorted(there))
        if class_name in there and class_name not in exclude
    ]
    label = {class_name: number for number, class_name in enumerate(kept)}
    splits = {split: named_examples(images, label) for split, images in found.splits.items()}
    train = splits.get("train") or splits.get(UNSAID, [])
    splits = carve(train, splits.get("val", []), splits.get("test", []), settings)
    return Source(
        name, " + ".join(place.name for place in paths), kept, splits, found.files, found.prefix
    )


def named_examples(images: Images, label: Mapping[str, int]) -> list[Example]:
    """Examples of the images of these classes, sorted by key and called `<class>/<image>`.

    Endings are left out (they differ between archives of the same images), unless two images would be called the same.
    """
    paths = {
        key: f"{class_name}/{image}"
        for key, (class_name, image) in sorted(images.items())
        if class_name in label
    }
    stems = [_stem(path) for path in paths.values()]
    times = Counter(stems)
    return [
        Example(key, label[images[key][0]], stem if times[stem] == 1 else path)
        for (key, path), stem in zip(paths.items(), stems, strict=True)
    ]


def ids_of(examples: Sequence[Example]) -> "np.ndarray":
    """uint64 [N]."""
    from writers.random_streams import sample_ids

    return sample_ids(example.name for example in examples)


def carve(
    train: list[Example], val: list[Example], test: list[Example], settings: SplitSettings
) -> dict[str, list[Example]]:
    """Carve what is missing of val and test out of train, class by class.

    A class's images stand in an order that is a function of their names and the seed alone, and the first of them go: when
    images come or go, few others change sides. At least one image of a class is left in train; a class of three or more
    gives at least one to each.
    """
    from writers.random_streams import draw

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
            for index in draw(settings.seed, "split", ids_of(examples)).argsort(kind="stable")
        ]
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


def layouts() -> str:
    """What is looked for at a place, in words: a hint for errors."""
    return "Accepted: " + "; ".join(kind.LAYOUT for kind in _kinds()) + "."


def below_class(path: str, class_name: str) -> str:
    """What comes after the class's folder in the path of an image; without such a folder the file's own name."""
    return (
        path.rpartition(f"{class_name}/")[2]
        if f"/{class_name}/" in f"/{path}"
        else path.rsplit("/", 1)[-1]
    )


def _find(path: Path, classes: Sequence[str] | None) -> Found:
    """Ask each kind of source in turn; what none of them knows by its looks is a tree of class folders."""
    if not path.exists():
        raise UserError(f"There is no folder or archive {path}.", layouts())
    try:
        kind = next(
            (kind for kind in _kinds() if hasattr(kind, "recognise") and kind.recognise(path)), None
        )
        return (kind or importlib.import_module(f"{KINDS}.tree")).find(path, classes)
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read: {error.strerror or error}."
        ) from error


def _kinds() -> Iterator[ModuleType]:
    return (importlib.import_module(f"{KINDS}.{name}") for name in names.names(KINDS))


def _joined(found: Mapping[Path, Found]) -> Found:
    """One whole of what several places hold. A place that says no split is of the split that its own name says."""
    if len(found) == 1:
        return next(iter(found.values()))
    splits: dict[str, dict[str, tuple[str, str]]] = {}
    for number, (path, part) in enumerate(found.items()):
        for split, images in part.splits.items():
            said = split or split_of(path.stem)
            if said is None:
                raise UserError(
                    f"Of the images in {path} it is unclear whether they are for training or for testing.",
                    "Of several sources each has its splits inside, or is called train, val or test.",
                )
            splits.setdefault(said, {}).update(
                (f"{number}/{key}", image) for key, image in images.items()
            )
    return Found(_Numbered(list(found.values())), splits)


def _refuse_unclear_splits(found: Found, paths: Sequence[Path]) -> None:
    there = {split for split, images in found.splits.items() if images}
    if UNSAID in there and len(there) > 1:
        raise UserError(
            f"{paths[0]} has parts that say their split and others that do not.", layouts()
        )
    if not there & {"train", UNSAID}:
        raise UserError(
            f"{' and '.join(map(str, paths))} has no images to train on{', only ' * bool(there)}"
            f"{' and '.join(sorted(there))}.",
            layouts(),
        )


class _Numbered:
    """The files of several places, each called `<number of the place>/<its key there>`."""

    def __init__(self, parts: Sequence[Found]) -> None:
        self._parts = parts

    def names(self) -> Sequence[str]:
        return [
            f"{number}/{key}"
            for number, part in enumerate(self._parts)
            for key in part.files.names()
        ]

    def read(self, name: str) -> bytes:
        part, key = self._split(name)
        return part.files.read(key)

    def where(self, name: str) -> str:
        part, key = self._split(name)
        return part.files.where(key)

    def _split(self, name: str) -> tuple[Found, str]:
        number, key = name.split("/", 1)
        part = self._parts[int(number)]
        return part, part.prefix + key


def _stem(path: str) -> str:
    """Without the ending of the last part."""
    folder, _, file = path.rpartition("/")
    return f"{folder}/{file.rsplit('.', 1)[0] or file}"
