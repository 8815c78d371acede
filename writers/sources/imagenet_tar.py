"""ImageNet's two official archives: ILSVRC2012_img_train.tar, a tar of 1000 tars, and _val.tar.

The archives are not unpacked: threads list the 1.28 million members of the inner tars once, and
images are read by offset. Validation images are numbered and not sorted by class. Their labels come
from ILSVRC2012_devkit_t12.tar.gz if it is in the same folder, otherwise from
`writers/formats/imagenet_val.py`.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from writers.errors import UserError
from writers.formats.files import Files, JoinedFiles
from writers.formats.image_formats import is_image
from writers.formats.imagenet_val import DEVKIT, of_devkit, shipped
from writers.formats.tars import Member, TarFiles, looks_like_tar, members, refuse_link
from writers.found_images import FoundImages, Images

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
LAYOUT = f"{TRAIN} and {VAL}, in one folder or each by its own --source"
INNER_TAR = re.compile(r"n\d{8}\.tar")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
THREADS = 8  # threads that list inner tars; they mostly wait for the disk
TARS_AT_ONCE = 32  # inner tars that are listed at the same time, to bound memory


def recognize(path: Path) -> bool:
    """Recognize an archive by its first file, and a folder by the names of its archives."""
    if path.is_dir():
        return (
            any((path / name).is_file() for name in (TRAIN, VAL)) and not (path / "train").is_dir()
        )
    return looks_like_tar(path) and _split_of(path) is not None


def find(path: Path, classes: Sequence[str] | None) -> FoundImages:
    """List the images. `classes` is not used: the archives name their classes.

    Raises:
        UserError: an archive is incomplete or not one of ImageNet's.
    """
    archives = (
        [path / name for name in (TRAIN, VAL) if (path / name).is_file()]
        if path.is_dir()
        else [path]
    )
    files: list[Files] = []
    splits: dict[str, Images] = {}
    for archive in archives:
        split = _split_of(archive)
        if split is None or split in splits:
            raise UserError(
                f"{archive} is not ImageNet's archive of that name.", "Download it again."
            )
        listed, splits[split] = _train(archive) if split == "train" else _val(archive)
        files.append(listed)
    return FoundImages(files[0] if len(files) == 1 else JoinedFiles(files), splits)


def _split_of(archive: Path) -> str | None:
    with archive.open("rb", buffering=0) as file:
        first = next(
            (member.name for member in members(file.fileno(), archive) if member.is_file), ""
        )
    return "train" if INNER_TAR.fullmatch(first) else "val" if VAL_IMAGE.fullmatch(first) else None


def _train(path: Path) -> tuple[TarFiles, Images]:
    files = TarFiles()
    images: dict[str, tuple[str, str]] = {}
    with (
        path.open("rb", buffering=0) as archive,
        ThreadPoolExecutor(THREADS, "harness-index") as pool,
    ):
        inner_tars = [member for member in members(archive.fileno(), path) if not member.is_folder]

        def listed(tar: Member) -> list[Member]:
            if not (tar.is_file and INNER_TAR.fullmatch(tar.name)):
                raise UserError(
                    f"{path}: {tar.name} is not the tar of one class.",
                    f"Give {TRAIN} as it was downloaded.",
                )
            inner = members(archive.fileno(), path / tar.name, tar.offset, tar.offset + tar.size)
            return [member for member in inner if not member.is_folder and is_image(member.name)]

        for begin in range(0, len(inner_tars), TARS_AT_ONCE):
            batch = inner_tars[begin : begin + TARS_AT_ONCE]
            for tar, members_of_tar in zip(batch, pool.map(listed, batch), strict=True):
                wnid = tar.name.removesuffix(".tar")
                if not members_of_tar:
                    raise UserError(f"{path}: {tar.name} has no images.", "Download it again.")
                for member in members_of_tar:
                    refuse_link(member, path / tar.name)
                    key = f"train/{wnid}/{member.name}"
                    files.add(key, path, member)
                    images[key] = wnid, member.name
    return files, images


def _val(path: Path) -> tuple[TarFiles, Images]:
    devkit = path.with_name(DEVKIT)
    wnids = of_devkit(devkit) if devkit.is_file() else shipped()
    files = TarFiles()
    images: dict[str, tuple[str, str]] = {}
    with path.open("rb", buffering=0) as archive:
        for member in members(archive.fileno(), path):
            if member.is_folder or not is_image(member.name):
                continue
            name = member.name.rsplit("/", 1)[-1]
            number = VAL_IMAGE.fullmatch(name)
            if number is None or not 1 <= int(number[1]) <= len(wnids):
                raise UserError(
                    f"{path}: {member.name} is not one of ImageNet's {len(wnids):,} validation "
                    "images.",
                    f"Give {VAL} as it was downloaded.",
                )
            refuse_link(member, path)
            key = f"val/{name}"
            files.add(key, path, member)
            images[key] = wnids[int(number[1]) - 1], name
    return files, images
