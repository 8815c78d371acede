"""Pickles of NumPy arrays in plain containers, read without letting them name anything but arrays."""

import io
import pickle
from typing import Any

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def loads(data: bytes) -> Any:
    """What is in the pickle, of Python 2 too. Raises pickle.UnpicklingError, or what a damaged pickle raises."""
    return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module, name)
