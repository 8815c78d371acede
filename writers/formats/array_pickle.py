"""Read pickles of NumPy arrays in lists and dicts. No other class is loaded."""

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
    """Read a pickle, also one of Python 2.

    Raises:
        pickle.UnpicklingError: the pickle contains another class. If it is damaged, other errors
            may be raised.
    """
    return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return super().find_class(module, name)
