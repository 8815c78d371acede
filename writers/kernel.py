"""The package's C parts, as they were built when it was installed: what Python does as well, only slower, and restart indices.

A call of one of their functions holds no Python lock.
"""

import ctypes
import functools
import importlib.util
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint, c_uint64, c_ulong, c_void_p

_ARGUMENTS = {
    "harness_check_markers": (c_char_p, c_uint64, c_uint64),                                # markers.c
    "harness_shrink": (c_void_p, *[c_int64] * 3, c_void_p, *[c_int64] * 8),                 # resize.c
    "harness_add_restart_markers": (c_char_p, c_ulong, c_uint, POINTER(c_void_p), POINTER(c_ulong), c_char_p),  # restart.c
    "harness_encode_with_markers": (c_void_p, c_void_p, *[c_int] * 4, c_uint, POINTER(c_void_p), POINTER(c_ulong), c_char_p),
    "harness_find_damage": (c_char_p, c_ulong, c_char_p),
    "harness_free": (c_void_p,),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """None: the package was installed without a C compiler."""
    found = importlib.util.find_spec("writers._kernel")
    if found is None or found.origin is None:
        return None
    opened = ctypes.CDLL(found.origin)
    for name, arguments in _ARGUMENTS.items():
        getattr(opened, name).argtypes = arguments
    return opened
