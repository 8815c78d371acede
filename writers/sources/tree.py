"""A tree of class folders, or an uncompressed tar or a zip of one, read without unpacking.

    train/cat/1.jpg  val/cat/2.jpg  test/cat/3.jpg      given splits (also valid/, validation/)
    cat/1.jpg  dog/2.jpg                                splits drawn by seed

Folders around such a tree (`caltech101/101_ObjectCategories/cat/1.jpg`) are skipped, and so are
files that are not images.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from writers.errors import UserError
from writers.formats.files import FolderFiles, open_files
from writers.source import UNSAID, FoundImages, layouts, split_of

LAYOUT = (
    "train/<class>/*.jpg with or without val/ and test/, or <class>/*.jpg, as a folder, an "
    "uncompressed .tar or a .zip"
)


def find(path: Path, classes: Sequence[str] | None) -> FoundImages:
    """List the images.

    Raises:
        UserError: no images, or folders that do not match the layout.
    """
    files = open_files(path)
    prefix, names = _without_wrapping(files.names())
    if not names:
        raise UserError(f"{path} has no images in class folders.", layouts())
    splits = _given_splits(names, path)
    if isinstance(files, FolderFiles):
        _refuse_empty_folders(
            path / prefix,
            {class_name for images in splits.values() for class_name, _ in images.values()},
        )
    return FoundImages(files, splits, prefix)


def _without_wrapping(names: Sequence[str]) -> tuple[str, list[str]]:
    """Strip outer folders while class folders remain; skip files next to class folders."""
    prefix = ""
    inner = [name for name in names if "/" in name]
    while inner:
        first = inner[0].split("/", 1)[0]
        wraps = split_of(first) is None and all(name.startswith(f"{first}/") for name in inner)
        deeper = [name[len(first) + 1 :] for name in inner if name.count("/") > 1]
        if not wraps or not deeper:
            break
        prefix, inner = f"{prefix}{first}/", deeper
    return prefix, inner


def _given_splits(names: Sequence[str], path: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Images by split, or under "" if class folders are at the top of the tree."""
    splits = {
        folder: split_of(folder) for folder in sorted({name.split("/", 1)[0] for name in names})
    }
    if all(splits.values()) and "train" not in splits.values():
        raise UserError(f"{path} has {'/ and '.join(splits)}/, and no train/.", layouts())
    if "train" not in splits.values():
        return {UNSAID: {name: _class_and_image(name) for name in names}}
    if strangers := [folder for folder, split in splits.items() if split is None]:
        raise UserError(
            f"{path} has images in {strangers[0]}/ next to train/; its splits are unclear.",
            layouts(),
        )
    by_split: dict[str, dict[str, tuple[str, str]]] = {}
    for name in names:
        folder, below = name.split("/", 1)
        split = splits[folder]
        if split and "/" in below:
            by_split.setdefault(split, {})[name] = _class_and_image(below)
    return by_split


def _class_and_image(path: str) -> tuple[str, str]:
    class_name, image = path.split("/", 1)
    return class_name, image


def _refuse_empty_folders(root: Path, class_names: Collection[str]) -> None:
    """Raise UserError for a class folder without images: a mistake of copying or unpacking."""
    folder = next((entry for entry in root.iterdir() if split_of(entry.name) == "train"), root)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in class_names:
            raise UserError(f"The class folder {entry} has no images.", "Fill it or remove it.")
