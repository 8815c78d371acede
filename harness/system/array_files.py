"""Files of named arrays (.npz) in the folders of stages."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from harness.system.atomic_write import open_atomically
from writers.errors import UserError


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file atomically; equal arrays give equal bytes."""
    with open_atomically(file) as handle:
        np.savez(handle, allow_pickle=False, **arrays)


@contextmanager
def open_arrays(file: Path, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a file for the block, which reads its arrays by name.

    Args:
        file: File of `write_arrays`.
        what: Content of the file in messages, such as "features".

    Raises:
        UserError: The file is missing or damaged, or lacks an array that the block reads.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, MemoryError, BadZipFile) as error:
        raise UserError(
            f"{file} is not a complete file of {what}: {error}",
            "Delete that stage's folder to compute them again.",
        ) from error
