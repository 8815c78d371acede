"""An installation outside a checkout has the packages, their data files and the recipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

RECIPES = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build the contents of a wheel (lib) and a source archive (SOURCES.txt), without C parts."""
    folder = tmp_path_factory.mktemp("built")
    commands = ["-q", "egg_info", "-e", str(folder), "build_py", "-d", str(folder / "lib")]
    script = f"from setuptools import setup; setup(script_args={commands})"
    subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=240
    )
    return folder


def test_recipes_are_found_by_name_and_as_base(built, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nbase: robust_l2\n")
    script = (
        "from harness.config import load; print(load.FOLDER); print(*load.available()); "
        "print(load.read('demo').name, load.read('mine.yaml').name)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env=os.environ | {"PYTHONPATH": str(built / "lib")},
    )
    folder, names, read = process.stdout.splitlines()
    assert built in Path(folder).parents and set(names.split()) == RECIPES and read == "demo mine"


def files_of(folder: Path) -> set[Path]:
    """List files relative to the folder, without bytecode and hidden files."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {
        path
        for path in paths
        if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    }


def test_data_files_of_the_packages_are_installed(built):
    here = {
        package / path
        for package in map(Path, ("harness", "loaders", "writers", "recipes"))
        for path in files_of(ROOT / package)
    }
    there = files_of(built / "lib")
    left_out = {
        path
        for path in here - there
        if path.suffix not in (".c", ".h", ".so") and path.name != "README.md"
    }
    assert not left_out and there <= here


def test_the_source_archive_has_all_sources(built):
    listed = set((built / "harness.egg-info" / "SOURCES.txt").read_text().splitlines())
    kernels = {
        str(path.relative_to(ROOT))
        for package in ("loaders", "writers")
        for path in (ROOT / package).rglob("*.[ch]")
    }
    wanted = {
        "Makefile",
        "constraints.txt",
        "benchmarks/gpu_check.py",
        "benchmarks/contenders/ours.py",
        *kernels,
        *(f"recipes/{name}.yaml" for name in RECIPES),
    }
    assert wanted <= listed and not any(name.endswith((".so", ".pyc")) for name in listed)
