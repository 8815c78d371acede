"""Read CIFAR's batches: pickles of arrays."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from writers.errors import UserError
from writers.formats import array_pickle
from writers.formats.layout_search import check_labels, find


def read_batches(
    path: Path, folder: str, archive: str, names: list[str]
) -> list[dict[str, Any]] | None:
    """Read the batches `names` from `folder` or from `archive`, up to two folders below `path`.

    Returns:
        The unpickled dict of each batch, or None if neither folder nor archive exists.

    Raises:
        UserError: a batch is missing or damaged.
    """
    inside, packed = path if path.name == folder else path / folder, find(path, archive)
    if not (inside / names[0]).is_file() and (first := find(path, f"{folder}/{names[0]}")):
        inside = first.parent
    if (inside / names[0]).is_file() or (packed is None and inside.is_dir()):
        return [
            _unpickled(
                (inside / name).read_bytes() if (inside / name).is_file() else None,
                str(inside / name),
            )
            for name in names
        ]
    if packed is None:
        return None
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(packed, "r:*") as tar:
            for member in tar:
                if member.isfile() and member.name in [f"{folder}/{name}" for name in names]:
                    file = tar.extractfile(member)
                    assert file is not None
                    batches[member.name.rsplit("/", 1)[1]] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{packed} is not a complete archive: {error}", "Download it again."
        ) from error
    return [_unpickled(batches.get(name), f"{packed}:{folder}/{name}") for name in names]


def classes_of(batch: dict[str, Any], key: str, where: str) -> list[str]:
    """Return the class names at `key` of the batch of metadata, read from `where`.

    Raises UserError if they are missing.
    """
    names = batch.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} has no {key}.", "Download it again.")
    return names


def images_of(
    batch: dict[str, Any], key: str, num_classes: int, where: str
) -> tuple[np.ndarray, list[int]]:
    """Return pixels, uint8 [N, 32, 32, 3], and the N labels at `key` of a batch from `where`.

    Raises UserError if they do not match each other or the classes.
    """
    pixels, labels = batch.get("data"), batch.get(key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape != (len(labels or ()), 3072)
    ):
        raise UserError(
            f"{where} does not have the images and labels of CIFAR.", "Download it again."
        )
    assert isinstance(labels, list)
    check_labels(labels, num_classes, where)
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _unpickled(data: bytes | None, where: str) -> dict[str, Any]:
    if data is None:
        raise UserError(f"There is no {where}.", "Download the dataset again.")
    try:
        content = array_pickle.loads(data)
    except Exception as error:  # pickle raises many exception types
        raise UserError(
            f"{where} is not a complete batch of CIFAR: {error}", "Download it again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a batch of CIFAR.", "Download it again.")
    return content
