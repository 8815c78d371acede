"""Images found at a path by a module of `writers/sources/`. Several paths can be joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from writers.errors import UserError
from writers.formats.files import Files
from writers.omissions import Omission, OmissionLog
from writers.split_names import NO_SPLIT, split_of

# Key of an image -> its class, and its path below the class folder: ("cat", "1.jpg").
Images = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class FoundImages:
    """Images of one path by split (train, val, test, or NO_SPLIT), and how to read them."""

    files: Files
    splits: Mapping[str, Images]
    prefix: str = ""  # folders around the tree of images; name in `files` = prefix + key
    # split -> keys of images outside class folders, whose labels the dataset may provide
    unlabeled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    omissions: Sequence[Omission] = ()
    # key -> classes, if images may have several; `splits` then has the first class, or "" if the
    # image has none. None if each image has one class
    labels: Mapping[str, Sequence[str]] | None = None


def joined(parts: Mapping[Path, FoundImages]) -> FoundImages:
    """Join the images of several paths.

    If a path has no splits, its images belong to the split that the path's name contains.

    Raises:
        UserError: a path neither has splits nor is named like one.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    splits: dict[str, dict[str, tuple[str, str]]] = {}
    unlabeled: dict[str, list[str]] = {}
    omitted = OmissionLog()
    for number, (path, part) in enumerate(parts.items()):
        for split, images in part.splits.items():
            part_split = split or split_of(path.stem)
            if part_split is None:
                raise UserError(
                    f"Of the images in {path} it is unclear whether they are training or test "
                    "images.",
                    "Each of several sources must contain splits, or be named train, val or test.",
                )
            splits.setdefault(part_split, {}).update(
                (f"{number}/{key}", image) for key, image in images.items()
            )
        for split, keys in part.unlabeled.items():
            part_split = split or split_of(path.stem) or NO_SPLIT
            unlabeled.setdefault(part_split, []).extend(f"{number}/{key}" for key in keys)
        omitted.extend(part.omissions, f"{path.name}/")
    files = _Numbered(list(parts.values()))
    labels = None
    if any(part.labels is not None for part in parts.values()):
        labels = {
            f"{number}/{key}": classes
            for number, part in enumerate(parts.values())
            for key, classes in _labels(part).items()
        }
    return FoundImages(
        files, splits, unlabeled=unlabeled, omissions=omitted.omissions(), labels=labels
    )


def _labels(part: FoundImages) -> Mapping[str, Sequence[str]]:
    if part.labels is not None:
        return part.labels
    return {key: (name,) for images in part.splits.values() for key, (name, _) in images.items()}


class _Numbered:
    """Files of several paths, named `<index of the path>/<key>`."""

    def __init__(self, parts: Sequence[FoundImages]) -> None:
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

    def _split(self, name: str) -> tuple[FoundImages, str]:
        number, key = name.split("/", 1)
        part = self._parts[int(number)]
        return part, part.prefix + key
