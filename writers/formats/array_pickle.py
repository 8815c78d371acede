"""Read pickles of NumPy arrays in plain containers, without loading any other class."""

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
    """Unpickle, Python 2's format included.

    Raises:
        pickle.UnpicklingError: the pickle names another class. A damaged pickle raises other
            errors.
    """
    return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return super().find_class(module, name)
