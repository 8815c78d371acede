"""Compile functions of several modules with numba, with a cache that sees changes in all of them.

Numba's cache on disk notices a change in the file of the compiled function, but not in the files of
functions and constants that this function uses. It then runs outdated machine code. However, the
index of the cache includes the values that a function closes over. `compiled` therefore makes the
function close over a digest of the other files.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from numba import njit


def helper(function: Callable[..., Any]) -> Any:
    """Apply njit to a function that only compiled code calls; it is cached with its caller."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(nogil=True, error_model="numpy", **options)(function)


def compiled(make: Callable[[int], Callable[..., Any]], parts: Iterable[ModuleType]) -> Any:
    """Apply njit to a function that uses code of several modules.

    The machine code is kept on disk if numba finds a writable folder; otherwise every process
    compiles the function.

    Args:
        make: Called with the version of the parts, a number of at least 0; returns the function.
            The function must use the version, because numba ignores names that it does not use.
        parts: Modules whose functions and constants the function uses, apart from its own module.
    """
    function = make(source_version(parts))
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available"
        return njit(**options)(function)


def source_version(parts: Iterable[ModuleType]) -> int:
    """Return 63 bits of a digest of the modules' source text."""
    digest = hashlib.sha256()
    for part in parts:
        try:
            digest.update(inspect.getsource(part).encode() + b"\0")
        except OSError:  # an installation without source text, for which numba has no cache
            return 0
    return int.from_bytes(digest.digest()[:8], "little") >> 1
