"""Compile functions of several modules with numba, with a cache that sees changes in all of them.

Numba's cache on disk notices a change in the file of the compiled function, but not in files of
functions and constants that it uses. It then runs outdated machine code. The index of that cache
has the values that a function closes over, though. `compiled` adds a digest of the other files to
them.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from numba import njit


def helper(function: Callable[..., Any]) -> Any:
    """Apply njit to a function that is only called from compiled code, and is cached with it."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(nogil=True, error_model="numpy", **options)(function)


def compiled(make: Callable[[int], Callable[..., Any]], parts: Iterable[ModuleType]) -> Any:
    """Apply njit to a function of parts in several modules.

    The machine code is kept on disk if numba finds a writable folder; otherwise every process
    compiles for itself.

    Args:
        make: Returns the function. It receives the version of the parts, at least 0, which the
            function must use: numba ignores names that a function does not close over.
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
