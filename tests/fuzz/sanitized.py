"""Build the C extensions with sanitizers, and describe the environment in which they run."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.helpers import ROOT
from writers.jpeg import native

BUILD = ROOT / "build" / "fuzz"
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-O1",
    "-g",
]


def compiler() -> str | None:
    """Path of gcc if it has AddressSanitizer's library, otherwise None."""
    found = shutil.which("gcc")
    return found if found and sys.platform == "linux" and _library(found, "libasan.so") else None


def build(gcc: str, root: Path = ROOT) -> Path:
    """Build the extensions that pyproject.toml lists, and return the folder with the builds.

    The folder's name is a hash of sources and flags; existing builds in it are reused.

    Args:
        gcc: path of the compiler.
        root: folder of pyproject.toml and of the sources.

    Raises:
        subprocess.CalledProcessError: gcc failed; its messages are on stderr.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())
    modules = project["tool"]["setuptools"]["ext-modules"]
    files = sorted(file for folder in ("loaders", "writers") for file in (root / folder).rglob("*"))
    state = hashlib.sha256(repr((modules, SANITIZERS)).encode())
    for file in files:
        if file.suffix in (".c", ".h"):
            state.update(file.read_bytes())
    folder = BUILD / state.hexdigest()[:16]
    for module in modules:
        target = library_of(folder, module["name"])
        if target.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        flags = [flag for flag in module["extra-compile-args"] if not flag.startswith("-O")]
        libraries = [f"-l{name}" for name in module["libraries"]]
        command = [gcc, "-shared", "-fPIC", *flags, *SANITIZERS, *module["sources"]]
        subprocess.run(
            [*command, *libraries, "-o", str(partial)], cwd=root, check=True, timeout=600
        )
        partial.replace(target)
    return folder


def library_of(folder: Path, module: str) -> Path:
    """Path of the sanitized build of a module ("package.name")."""
    return folder / f"{module}{native.SUFFIX}"


def environment(gcc: str) -> dict[str, str]:
    """Environment variables of a process that loads sanitized libraries."""
    # libstdc++ is preloaded, too: otherwise the sanitizer cannot intercept its exceptions.
    preloaded = [_library(gcc, name) for name in ("libasan.so", "libstdc++.so")]
    return os.environ | {
        "LD_PRELOAD": " ".join(path for path in preloaded if path),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99:max_allocation_size_mb=8192:"
        "allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # AddressSanitizer puts redzones around each bytes object
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(BUILD / "numba"),
        "OMP_NUM_THREADS": "1",
    }


def _library(gcc: str, name: str) -> str | None:
    """Path of a library of the compiler; None if gcc does not have it and prints only the name."""
    ended = subprocess.run(
        [gcc, f"-print-file-name={name}"], capture_output=True, text=True, timeout=60, check=True
    )
    path = Path(ended.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else None
