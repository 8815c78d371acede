"""Call the package's C library, which adds restart indices and replaces slow Python code.

The functions of the library run without the GIL.
"""

import ctypes
import functools
import importlib.util
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint, c_uint64, c_ulong, c_void_p
from pathlib import Path

MODULE, VERSION = "writers._kernel", 2  # the version is also in version.c
SUFFIX = ".abi3.so"  # py-limited-api in pyproject.toml: one build serves every Python from 3.11 on
REINSTALL = (
    "Install a C compiler and libjpeg-turbo's headers (Debian: gcc libjpeg-dev), then reinstall "
    "with "
    "`pip install -e .`."
)

_ARGUMENTS = {
    "harness_check_markers": (c_char_p, c_uint64, c_uint64),  # markers.c
    "harness_shrink": (c_void_p, *[c_int64] * 3, c_void_p, *[c_int64] * 8),  # resize.c
    "harness_add_restart_markers": (  # restart.c, as the following two
        c_char_p,
        c_ulong,
        c_uint,
        POINTER(c_void_p),
        POINTER(c_ulong),
        c_char_p,
    ),
    "harness_encode_with_markers": (
        c_void_p,
        c_void_p,
        *[c_int] * 4,
        c_uint,
        POINTER(c_void_p),
        POINTER(c_ulong),
        c_char_p,
    ),
    "harness_find_damage": (c_char_p, c_ulong, c_char_p),
    "harness_free": (c_void_p,),
    "harness_jpeg_to_dct": (  # dct/encode.c
        c_char_p,
        c_ulong,
        POINTER(c_void_p),
        POINTER(c_ulong),
        c_char_p,
    ),
    "harness_dct_to_jpeg": (
        c_char_p,
        c_ulong,
        POINTER(c_void_p),
        POINTER(c_ulong),
        c_char_p,
    ),
    "harness_check_dct": (c_char_p, c_ulong, POINTER(c_int), POINTER(c_int), c_char_p),
    "harness_read_dct": (c_char_p, c_ulong, c_int, c_void_p),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the library; None if it was not built, cannot be loaded, or has another version."""
    opened = open_library(MODULE, VERSION)
    if opened is not None:
        for name, arguments in _ARGUMENTS.items():
            getattr(opened, name).argtypes = arguments
    return opened


def library_file(module: str) -> Path | None:
    """Return the path of the shared object of `module` ("package.name"), or None if not built.

    A file for a single Python version (`.cpython-311-...so`) is an older build. Python's own search
    would prefer it, so only `.abi3.so` is searched for here.
    """
    package, _, name = module.rpartition(".")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    files = (Path(folder) / f"{name}{SUFFIX}" for folder in folders or ())
    return next((file for file in files if file.is_file()), None)


def open_library(module: str, version: int) -> ctypes.CDLL | None:
    """Load the shared object built as `module`.

    Returns None if it is missing, cannot be loaded, or has another version.

    The library is outdated if the sources were updated without a reinstallation, or if the build
    failed, which the installation ignores.
    """
    file = library_file(module)
    if file is None:
        return None
    try:
        opened = ctypes.CDLL(str(file))
        return opened if opened.harness_kernel_version() == version else None
    except (
        OSError,
        AttributeError,
    ):
        # A dependency is missing, or the library is so old that it has no version.
        return None


def is_outdated(module: str, version: int) -> bool:
    """Return True if `module` was built, but has another version or cannot be loaded."""
    built = library_file(module) is not None or importlib.util.find_spec(module) is not None
    return built and open_library(module, version) is None
