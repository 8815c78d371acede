"""Pictures that are drawn, not downloaded: small photo-like JPEG files in class folders, made on first use.

Every picture is a function of the set, split, class and number alone. How they are drawn is in `writers/synthetic/canvas.py`; the sets
themselves, `synthetic_*`, are in `writers/datasets/`.
"""

import contextlib
import hashlib
import io
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from writers.errors import UserError
from writers.lock import locked
from writers.source import Source, SplitSettings, open_source
from writers.synthetic.canvas import Canvas

VERSION = 3  # raise it with every change that moves a pixel: sets of other versions are made anew
STAMP = "synthetic.txt"
LEFTOVER_AGE_S = 3600  # a half-made folder this old belongs to a process that was killed

Draw = Callable[[Canvas], None]  # draws one class's picture on a background


@dataclass(frozen=True)
class SyntheticSet:
    """A set of drawn pictures: what each class looks like, and how many pictures of it each split has."""

    name: str
    classes: Mapping[str, Draw]
    num_images: Mapping[str, int]  # by split, of each class


def open_synthetic(path: Path, settings: SplitSettings, pictures: SyntheticSet) -> Source:
    """The set at `path`, made first where it is not there yet. Raises UserError as `make` does."""
    make(path, pictures)
    return open_source(path, settings, name=pictures.name, classes=sorted(pictures.classes))


def make(path: Path, pictures: SyntheticSet) -> None:
    """Write the set as `path`/<split>/<class>/NNN.jpg, unless it is there; a set of another version is replaced.

    The pictures are written to a folder beside `path` that takes its name at the end, so a kill leaves no half set, and of
    two processes that start at once the second uses the first one's. Raises UserError where `path` holds something else,
    and where it cannot be written.
    """
    path = Path(path).resolve()
    stamp = _stamp(pictures)
    if _read_stamp(path) == stamp:
        return
    _refuse_foreign(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            if _read_stamp(path) != stamp:
                _remove_leftovers(path)
                made = _beside(path)
                _write(made, pictures, stamp)
                _put_in_place(made, path, stamp)
    except OSError as error:
        raise UserError(
            f"{path} cannot be made: {error.strerror or error}.",
            "Name a folder that can be written.",
        ) from error


def encode_image(pictures: SyntheticSet, split: str, class_name: str, number: int) -> bytes:
    """One picture as a JPEG file."""
    key = f"{pictures.name}/{split}/{class_name}/{number}"
    canvas = Canvas(np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest())))
    pictures.classes[class_name](canvas)
    file = io.BytesIO()
    Image.fromarray(canvas.finish()).save(file, "JPEG", quality=90)
    return file.getvalue()


# The folder.


def _stamp(pictures: SyntheticSet) -> str:
    numbers = ", ".join(f"{number} {split}" for split, number in pictures.num_images.items())
    return (
        f"{pictures.name}, version {VERSION}: {len(pictures.classes)} classes of {numbers}.\n"
        "Drawn by writers/synthetic/generate.py; this folder is replaced when its version changes.\n"
    )


def _read_stamp(path: Path) -> str | None:
    try:
        return (path / STAMP).read_text()
    except OSError:
        return None


def _refuse_foreign(path: Path) -> None:
    """Only an empty folder, or one that was made here, may be written over."""
    if path.exists() and _read_stamp(path) is None and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"{path} holds something other than a synthetic set (it has no {STAMP}); it is left as it is.",
            "Name another folder, or one that does not exist yet.",
        )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.making-{secrets.token_hex(8)}")


def _remove_leftovers(path: Path) -> None:
    for folder in path.parent.glob(f".{path.name}.making-*"):
        with contextlib.suppress(FileNotFoundError):
            if (
                _read_stamp(folder) is not None
                and time.time() - folder.stat().st_mtime > LEFTOVER_AGE_S
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, pictures: SyntheticSet, stamp: str) -> None:
    folder.mkdir()
    (folder / STAMP).write_text(stamp)  # first, so that what a kill leaves is known as ours
    for split, number in pictures.num_images.items():
        for class_name in pictures.classes:
            class_folder = folder / split / class_name
            class_folder.mkdir(parents=True)
            for index in range(number):
                (class_folder / f"{index:03}.jpg").write_bytes(
                    encode_image(pictures, split, class_name, index)
                )


def _put_in_place(made: Path, path: Path, stamp: str) -> None:
    old = _beside(path)
    while _read_stamp(path) != stamp:
        _refuse_foreign(path)
        if _read_stamp(path) is not None:
            path.rename(old)
        try:
            made.rename(path)
        except OSError:
            if not path.exists():
                raise
            continue  # another process was first: look again at what is there
        break
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)
