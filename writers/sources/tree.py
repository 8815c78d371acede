"""A tree of class folders, or an uncompressed tar or a zip of one, read without unpacking.

    train/cat/1.jpg  val/cat/2.jpg  test/cat/3.jpg      given splits; validation/ etc. are read, too
    cat/1.jpg  dog/2.jpg                                splits drawn by seed

Outer folders around such a tree (`caltech101/101_ObjectCategories/cat/1.jpg`) are allowed. Files
that are not images are counted and reported. Files with an unknown extension are recognized by
their content.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from writers.errors import UserError
from writers.folder_rules import BY_NAME, FolderRules
from writers.formats.files import FolderFiles, ListedFiles, is_system_folder, open_files
from writers.formats.image_formats import (
    HEAD_BYTES,
    OTHER_EXTENSIONS,
    UNREAD_IMAGES,
    extension_of,
    format_of,
    is_image,
    other_format_of,
)
from writers.found_images import FoundImages
from writers.omissions import OmissionLog
from writers.source import layouts
from writers.split_names import NO_SPLIT, split_of
from writers.text_names import normalized, preview, printable

LAYOUT = (
    "train/<class>/*.jpg with or without val/ and test/, or <class>/*.jpg, as a folder, an "
    "uncompressed .tar or a .zip"
)
MIN_SHARED = 2  # if all class folders share this many subfolders, these may be the classes

ClassAndImage = tuple[str, str]


def find(
    path: Path,
    classes: Sequence[str] | None,
    rules: FolderRules = BY_NAME,
    known: Collection[str] = (),
) -> FoundImages:
    """List the images.

    Args:
        path: folder, tar or zip.
        classes: class names that the dataset defines; None if it defines none.
        rules: which folders are splits and classes.
        known: names of files that have another purpose; they are not counted.

    Raises:
        UserError: there are no images, or folders do not match the layout.
    """
    omitted = OmissionLog()
    files, images = list_images(path, omitted, known)
    prefix, names = _without_wrapping(images, rules)
    in_tree = {prefix + name for name in names}
    outside = [name for name in images if name not in in_tree]
    if names or classes is None:
        for name in outside:
            omitted.add("images outside class folders", name)
    unlabeled: dict[str, Sequence[str]] = {}
    if not names and outside and classes is not None:  # no class folders, as in ImageNet's val
        return FoundImages(files, {}, unlabeled={NO_SPLIT: outside}, omissions=omitted.omissions())
    if not names:
        what = "; ".join([f"{path} has no images in class folders", *map(str, omitted.omissions())])
        tables = "If a table lists their classes, use --labels FILE. " if outside else ""
        raise UserError(f"{what}.", tables + layouts())
    splits, unlabeled = _given_splits(names, path, omitted, rules)
    if rules.is_default:
        of_splits = [by_name.values() for by_name in splits.values()]
        is_only = len({class_name for found in of_splits for class_name, _ in found}) == 1
        for found in [chain.from_iterable(of_splits)] if is_only else of_splits:
            _refuse_shared_subfolders(path, found, classes, is_only=is_only)
    if isinstance(files, FolderFiles):
        _refuse_empty_folders(path / prefix, {name.rsplit("/", 1)[0] for name in names}, rules)
    return FoundImages(files, splits, prefix, unlabeled, omitted.omissions())


def list_images(
    path: Path, omitted: OmissionLog, known: Collection[str] = ()
) -> tuple[ListedFiles, list[str]]:
    """List the images of a folder or archive, by extension or, if that is unknown, by content.

    Args:
        path: folder or archive.
        omitted: receives the files that are not images.
        known: names of files that have another purpose; they are not counted.
    """

    def keep(name: str) -> bool:
        if name in known:
            return False
        *folders, file = name.split("/")
        if file.startswith(".") or any(map(is_system_folder, folders)):
            omitted.add("hidden and system files", name)
            return False
        if not is_image(name) and extension_of(name) in OTHER_EXTENSIONS:
            omitted.add("files with extensions of other formats", name)
            return False
        return True

    def count_folder(name: str, reason: str) -> None:
        omitted.add(reason, f"{name}/")

    files = open_files(path, keep, count_folder)
    images = []
    for name in files.names():
        head = b"" if is_image(name) else _head(files, name)
        if is_image(name) or format_of(head) is not None:
            images.append(name)
        elif other_format_of(head) in UNREAD_IMAGES:
            omitted.add("images in formats that are not read, HEIC or JPEG XL", name)
        else:
            omitted.add("files that are not images by name or content", name)
    return files, images


def _head(files: ListedFiles, name: str) -> bytes:
    try:
        return files.head(name, HEAD_BYTES)
    except OSError:  # for example a broken link, which is then counted as not an image
        return b""


def _without_wrapping(names: Sequence[str], rules: FolderRules) -> tuple[str, list[str]]:
    """Remove outer folders, from the top, until the next ones are classes or splits.

    Files next to the folders are left out.

    Returns:
        The removed folders, "" or with a slash at the end, and the remaining paths of the images.
    """
    prefix = ""
    inner = [name for name in names if "/" in name]
    while inner:
        first = inner[0].split("/", 1)[0]
        wraps = rules.split_of(first) is None and all(
            name.startswith(f"{first}/") for name in inner
        )
        deeper = [
            name[len(first) + 1 :] for name in inner if name.count("/") > (rules.class_level or 1)
        ]
        if not wraps or not deeper:
            break
        prefix, inner = f"{prefix}{first}/", deeper
    return prefix, inner


def _given_splits(
    names: Sequence[str], path: Path, omitted: OmissionLog, rules: FolderRules
) -> tuple[dict[str, dict[str, ClassAndImage]], dict[str, Sequence[str]]]:
    """Group images by split folder.

    Returns:
        Split -> images with their classes (the split is NO_SPLIT if class folders are at the top),
        and split -> names of images without a class.

    Raises:
        UserError: there is no train/ among split folders, a split has two folders, or another
            folder next to them has folders with images.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, below = name.split("/", 1)
        by_folder[folder].append(below)
    splits = {folder: rules.split_of(folder) for folder in sorted(by_folder)}
    if all(splits.values()) and "train" not in splits.values():
        raise UserError(
            f"{path} has {'/ and '.join(splits)}/, and no train/.",
            f"{layouts()} If they are classes, pass --split-folders never.",
        )
    if "train" not in splits.values():
        return {NO_SPLIT: _in_classes({name: name for name in names}, rules, omitted)}, {}
    by_split: dict[str, dict[str, ClassAndImage]] = {}
    unlabeled: dict[str, Sequence[str]] = {}
    folder_of: dict[str, str] = {}
    for folder, split in splits.items():
        inner = _inner_folder(folder, by_folder[folder])
        below_of = {f"{folder}/{below}": below[len(inner) :] for below in by_folder[folder]}
        if split is None:
            if any("/" in below for below in below_of.values()):
                raise UserError(
                    f"{path} has images in {printable(folder)}/ next to train/; its splits are "
                    "unclear.",
                    "If they are classes, pass --split-folders never (in a recipe, split_folders). "
                    f"{layouts()}",
                )
            for name in below_of:
                omitted.add("images outside class folders, next to the splits", name)
            continue
        if split in folder_of:
            raise UserError(
                f"{path} has {folder_of[split]}/ and {folder}/, which are both {split}.",
                "Rename or remove one of them.",
            )
        folder_of[split] = folder
        in_folders = {name: below for name, below in below_of.items() if "/" in below}
        by_split[split] = _in_classes(in_folders, rules, omitted)
        unlabeled[split] = [name for name, below in below_of.items() if "/" not in below]
    return by_split, {split: keys for split, keys in unlabeled.items() if keys}


def _inner_folder(folder: str, names: Sequence[str]) -> str:
    """Return the only subfolder of a split folder if it is named like the split, as `seg_train/`.

    Some archives have seg_train/seg_train/. Otherwise return "". `names` are relative to `folder`.
    """
    first = names[0].split("/", 1)[0]
    is_again = first == folder or (
        split_of(first) is not None and split_of(first) == split_of(folder)
    )
    inner = f"{first}/"
    return inner if is_again and all(name.startswith(inner) for name in names) else ""


def _in_classes(
    paths: Mapping[str, str], rules: FolderRules, omitted: OmissionLog
) -> dict[str, ClassAndImage]:
    """Map each image to class and path. Images above the class folders are counted as omitted."""
    images = {}
    for name, path in paths.items():
        found = rules.class_and_image(normalized(path))
        if found is None:
            omitted.add("images outside class folders", name)
        else:
            images[name] = found
    return images


def _refuse_shared_subfolders(
    path: Path,
    images: Iterable[ClassAndImage],
    classes: Sequence[str] | None,
    *,
    is_only: bool,
) -> None:
    """Raise UserError if all class folders share subfolders, as these may be the classes.

    At least MIN_SHARED subfolders must be shared, and half of all subfolders: Tiny ImageNet's
    single `images` is allowed. There is no check if the dataset defines `classes` and all class
    folders are among them. The subfolders of a single class (`is_only`), such as those of `data` in
    train/data/cat and train/data/dog, count as shared, unless images are directly in its folder.
    """
    subfolders: dict[str, set[str]] = {}
    num_direct = 0  # images that are not in a subfolder
    for class_name, image in images:
        of_class = subfolders.setdefault(class_name, set())
        if "/" in image:
            of_class.add(image.split("/", 1)[0])
        else:
            num_direct += 1
    if classes is not None and set(subfolders) <= set(classes):
        return
    if num_direct if is_only else len(subfolders) < 2:
        return
    shared = sorted(set.intersection(*subfolders.values()))
    if len(shared) < max(MIN_SHARED, len(set.union(*subfolders.values())) / 2):
        return
    tops = preview(sorted(subfolders), 2)
    raise UserError(
        f"All class folders of {path} ({tops}) have the subfolders {preview(shared, 3)}. Which "
        "ones are the classes?",
        f"Pass --class-level 1 for {sorted(subfolders)[0]}, --class-level 2 for {shared[0]} (in a "
        "recipe, class_level). If these are splits, name them train, val and test.",
    )


def _refuse_empty_folders(
    root: Path, folders_with_images: Collection[str], rules: FolderRules
) -> None:
    """Raise UserError if a class folder (of train/, if there is one) has no images.

    This happens after an incomplete copy.
    """
    tops = [entry for entry in root.iterdir() if entry.is_dir()]
    train = next((entry for entry in tops if rules.split_of(entry.name) == "train"), None)
    above = root if train is None else train
    inside = "" if train is None else f"{train.name}/"
    if train is not None and (train / train.name).is_dir():
        above, inside = train / train.name, f"{inside}{train.name}/"
    depth = inside.count("/") + 1
    filled = {"/".join(folder.split("/")[:depth]) for folder in folders_with_images}
    for entry in sorted(above.iterdir()):
        is_empty = f"{inside}{entry.name}" not in filled
        if entry.is_dir() and is_empty and not is_system_folder(entry.name):
            raise UserError(f"The class folder {entry} has no images.", "Fill it or remove it.")
