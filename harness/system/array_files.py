"""Write and read files of named arrays (.npz) in the folders of stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from harness.system.atomic_write import open_atomically
from writers.errors import UserError
from writers.regular_file import open_regular
from writers.text_names import first_line


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a file, atomically. Equal arrays give equal bytes."""
    with open_atomically(file) as handle:
        np.savez(handle, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class Form:
    """Required dtype and shape of an array.

    Attributes:
        kinds: accepted values of `dtype.kind`: any of u, i and f.
        ndims: accepted numbers of dimensions.
        needed: False if the array may be missing.
        has_rows: the first dimension must be equal in all arrays with `has_rows`.
    """

    kinds: str
    ndims: tuple[int, ...] = (1,)
    needed: bool = True
    has_rows: bool = True


def read_arrays(file: Path, what: str, forms: Mapping[str, Form]) -> dict[str, np.ndarray]:
    """Read arrays from a file that `write_arrays` wrote, and check them.

    Args:
        file: path of the .npz file.
        what: content of the file in messages, such as "features".
        forms: name of each array to read -> its form.

    Raises:
        UserError: the file is missing or damaged, or an array is missing or has another form.
    """
    try:
        with open_regular(file) as opened, np.load(opened, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in forms if forms[name].needed or name in arrays}
        for name, array in found.items():
            form = forms[name]
            if array.dtype.kind not in form.kinds or array.ndim not in form.ndims:
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
        rows = {name: len(found[name]) for name in found if forms[name].has_rows}
        if len(set(rows.values())) > 1:
            numbers = ", ".join(map(str, rows.values()))
            raise ValueError(f"its arrays have different numbers of rows: {numbers}")
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        MemoryError,
        SyntaxError,
        BadZipFile,
    ) as error:
        raise UserError(
            f"{file} is not a complete file of {what}: {first_line(error)}",
            "Delete that stage's folder to compute them again.",
        ) from error
    return found
