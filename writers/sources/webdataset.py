"""WebDataset shards, read without unpacking.

A shard is a tar. The files of a sample have the same key and are adjacent: `0001.jpg 0001.cls`.

    imagenet1k-train-0000.tar  imagenet1k-validation-00.tar     timm's imagenet-1k-wds
    train/0000.tar  test/0000.tar  classnames.txt               CLIP benchmark

The label is the content of `.cls` or `.cls.txt`, or `label`, `cls`, `class_id` or `labels` in
`.json`. It is a number or name of a class, or a list of them if images have several labels. If the
dataset defines an order of classes, as ImageNet does, numbers are positions in that order.
Otherwise they are lines of `classnames.txt` or `classes.txt`, from 0. Without either, the class is
named by its number in four digits. The name of an image is `filename` in its `.json`, or else its
name in the archive.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from writers import text_encoding
from writers.errors import UserError
from writers.formats.files import shards_in
from writers.formats.image_formats import IMAGE_EXTENSIONS
from writers.formats.tars import Member, TarFiles, looks_like_tar, members, refuse_link
from writers.found_images import FoundImages
from writers.omissions import OmissionLog
from writers.source import below_class, unique_names
from writers.sources._label_lists import (
    is_label,
    listed,
    number_or_name,
    refuse_negative,
    with_lists,
)
from writers.split_names import NO_SPLIT, split_of
from writers.text_names import MAX_PATH, counted, normalized, preview

LAYOUT = (
    "WebDataset shards, *train*.tar and *val*.tar with <key>.jpg and <key>.cls or .json in "
    "them, or a folder of them"
)
CLASS_LISTS = ("classnames.txt", "classes.txt")
UNLABELED = "-1"
LABEL_KEYS = ("label", "cls", "class_id", "labels")
LABEL_EXTENSIONS = (".cls", ".cls.txt", ".json")
MAX_FILES_OF_SAMPLE = 100  # files that are read to recognize a shard
MAX_LABEL_BYTES = 2**24  # maximum size of a .cls or .json


def recognize(path: Path) -> bool:
    """Return True if the first archive begins as a shard."""
    shards = [path] if path.is_file() else shards_in(path, ".tar")
    return bool(shards) and looks_like_tar(shards[0]) and _begins_as_shard(shards[0])


def find(path: Path, classes: Sequence[str] | None) -> FoundImages:
    """List the images.

    Args:
        path: a shard, or a folder of shards.
        classes: names of the dataset's classes in label order; None if the dataset defines none.

    Raises:
        UserError: an archive is incomplete, an image has no label, or a label is not in the
            classes.
    """
    shards = [path] if path.is_file() else shards_in(path, ".tar")
    class_of = _namer(classes or _class_list(path), path)
    files = TarFiles()
    splits: dict[str, dict[str, tuple[str, str]]] = {}  # split -> name in `files` -> class, image
    several: dict[str, list[str]] = {}  # name in `files` -> classes, if the label is a list
    omitted = OmissionLog()
    for number, shard in enumerate(shards):
        images = splits.setdefault(_split_of(shard), {})
        with shard.open("rb", buffering=0) as archive:
            for key, sample in _samples(archive.fileno(), shard):
                member_of = {member.name[len(key) :].lower(): member for member in sample}
                if len(member_of) < len(sample):
                    raise UserError(
                        f"{shard} has {key} twice.", "It is unclear which one to use; remove one."
                    )
                of_images = [
                    member
                    for extension, member in member_of.items()
                    if extension in IMAGE_EXTENSIONS
                ]
                if not of_images:
                    if member_of:
                        omitted.add("samples without an image", f"{shard.name}:{key}")
                    continue
                image, *further = of_images
                for member in further:
                    omitted.add("further images of a sample", f"{shard.name}:{member.name}")
                refuse_link(image, shard)
                label, filename = _label(archive.fileno(), member_of, shard, key)
                if label == UNLABELED:
                    omitted.add("samples without a label (-1)", f"{shard.name}:{key}")
                    continue
                name = f"{number}/{image.name}"
                if isinstance(label, list):
                    several[name] = [class_of(one, f"{shard}:{key}") for one in label]
                    class_name = several[name][0] if label else ""
                else:
                    class_name = class_of(label, f"{shard}:{key}")
                files.add(name, shard, image)
                images[name] = (
                    class_name,
                    below_class(normalized(filename or image.name), class_name),
                )
    splits = {split: _unique(images, shards) for split, images in splits.items()}
    labels = with_lists(splits, several)
    return FoundImages(files, splits, omissions=omitted.omissions(), labels=labels)


def _samples(handle: int, shard: Path) -> Iterator[tuple[str, list[Member]]]:
    """Yield key and files of each sample: adjacent files of equal key.

    The key is the name up to the first dot, as in WebDataset. Names may have further dots, as in
    `photo.1.jpg`. If no image of a sample is named by the key and an extension alone, the key
    is the name without its last extension.
    """
    for key, group in groupby(members(handle, shard), lambda member: _key(member.name)):
        files = [member for member in group if not member.is_folder]
        extensions = {_extension(member.name) for member in files}
        if extensions.isdisjoint(IMAGE_EXTENSIONS) and any(
            extension.endswith(IMAGE_EXTENSIONS) for extension in extensions
        ):
            for stem, part in groupby(files, lambda member: member.name.rpartition(".")[0]):
                yield stem, list(part)
        else:
            yield key, files


def _unique(
    images: dict[str, tuple[str, str]], shards: Sequence[Path]
) -> dict[str, tuple[str, str]]:
    """Put the shard's name before image names that several shards use, such as 0000.jpg."""
    times = Counter(images.values())
    prefixed = {
        name: (class_name, image)
        if times[class_name, image] == 1
        else (class_name, f"{shards[int(name.partition('/')[0])].stem}/{image}")
        for name, (class_name, image) in images.items()
    }
    times = Counter(prefixed.values())
    if len(times) == len(prefixed):
        return prefixed
    # Within one shard, keys may differ only in their folders: use the whole key as name.
    return {
        name: (class_name, image)
        if times[class_name, image] == 1
        else (class_name, f"{shards[int(name.partition('/')[0])].stem}/{name.partition('/')[2]}")
        for name, (class_name, image) in prefixed.items()
    }


def _label(
    handle: int, member_of: dict[str, Member], shard: Path, key: str
) -> tuple[int | str | list[int | str], str | None]:
    """Return a sample's label or labels, and its file name or None."""
    metadata: dict[str, Any] = {}
    if ".json" in member_of:
        content = _content(handle, member_of[".json"], shard)
        try:
            metadata = json.loads(text_encoding.decode(content, f"{shard}:{key}.json"))
            metadata = metadata if isinstance(metadata, dict) else {}
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{shard}:{key}.json is not JSON: {error}", "Download it again."
            ) from error
    of_label = member_of.get(".cls", member_of.get(".cls.txt"))
    if of_label is not None:
        text = text_encoding.decode(_content(handle, of_label, shard), f"{shard}:{of_label.name}")
        label: Any = text.strip()
    else:
        label = next(
            (metadata[name] for name in LABEL_KEYS if metadata.get(name) is not None), None
        )
    if isinstance(label, str) and label.startswith("["):
        with suppress(ValueError, RecursionError):
            label = json.loads(label)
    filename = metadata.get("filename")
    filename = filename if isinstance(filename, str) and len(filename) <= MAX_PATH else None
    if isinstance(label, list):
        return listed(label, f"{shard}:{key}"), filename
    if not is_label(label) and label not in (None, ""):
        raise UserError(
            f"{shard}:{key} has the label {preview([json.dumps(label)])}, which is neither a whole "
            "number nor a name.",
            "Write such labels in a table: --labels FILE, with the images in a folder.",
        )
    if not is_label(label):
        raise UserError(
            f"{shard}:{key} has no label.",
            "Add a .cls, or a label in its .json; the label -1 leaves the image out.",
        )
    return number_or_name(label), filename


def _namer(names: Sequence[str] | None, path: Path) -> Callable[[int | str, str], str]:
    """Return a function from a label (and its position, for messages) to a class name."""

    def name(label: int | str, where: str) -> str:
        if isinstance(label, str):
            refuse_negative(label, where)
            return label
        if names is None:
            return f"{label:04d}"
        if label >= len(names):
            raise UserError(
                f"{where} has the label {label}; there are {counted(len(names), 'class')}.",
                "Pass shards of this dataset.",
            )
        return names[label]

    return name


def _class_list(path: Path) -> list[str] | None:
    folder = path if path.is_dir() else path.parent
    lists: Iterator[Path] = (folder / name for name in CLASS_LISTS)
    file = next((file for file in lists if file.is_file()), None)
    if file is None:
        return None
    lines = text_encoding.decode(file.read_bytes(), file).split("\n")
    return unique_names([line.strip() for line in lines if line.strip()])


def _begins_as_shard(shard: Path) -> bool:
    """Return True if the first files share a key and one of them is a label.

    In an archived folder of images, each image has its own key.
    """
    with shard.open("rb", buffering=0) as archive:
        listed = (member.name for member in members(archive.fileno(), shard) if member.is_file)
        _, names = next(groupby(listed, _key), ("", iter(())))
        extensions = {_extension(name) for name in islice(names, MAX_FILES_OF_SAMPLE)}
    return len(extensions) > 1 and any(
        extension.endswith(LABEL_EXTENSIONS) for extension in extensions
    )


def _split_of(shard: Path) -> str:
    """Return a shard's split, from its name (`imagenet1k-validation-00.tar`) or its folder."""
    splits = {split for word in re.split(r"[-._]", shard.stem) if (split := split_of(word))}
    return splits.pop() if len(splits) == 1 else split_of(shard.parent.name) or NO_SPLIT


def _key(name: str) -> str:
    """Return a sample's key as in WebDataset: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _extension(name: str) -> str:
    return name[len(_key(name)) :].lower()


def _content(handle: int, member: Member, shard: Path) -> bytes:
    if member.size > MAX_LABEL_BYTES:
        raise UserError(
            f"{shard}: {member.name} has {member.size:,} bytes, more than a label and its "
            "metadata.",
            "Pack the shard again without it.",
        )
    return os.pread(handle, member.size, member.offset)
