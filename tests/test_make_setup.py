"""`make setup` installs the versions of constraints.txt, or the newest ones if those are unavailable."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.helpers import ROOT

# Stands for the Python of a virtual environment: records pip's arguments and limits.
PYTHON = """\
#!/bin/sh
echo "$* [$PIP_CONSTRAINT] [$PIP_BUILD_CONSTRAINT]" >> "{calls}"
{fails} || [ -z "$PIP_CONSTRAINT" ]
"""
INSTALL = "-m pip install -q --disable-pip-version-check -e .[dev]"
LIMITED = f"{INSTALL} [constraints.txt] [constraints.txt]"
NEWEST = f"{INSTALL} [] []"


def setup(folder: Path, *options: str, fails: bool) -> tuple[list[str], str]:
    """Run `make setup` with a fake Python; return the calls of pip and the output.

    Args:
        folder: folder for the virtual environment and the fake programs.
        options: further arguments of make.
        fails: pip cannot install the versions of a constraints file.
    """
    calls = folder / "calls"
    venv, header = folder / "venv", folder / "Python.h"
    (venv / "bin").mkdir(parents=True)
    header.touch()
    programs = {
        venv / "bin" / "python": PYTHON.format(calls=calls, fails="false" if fails else "true"),
        folder / "python3": f"#!/bin/sh\necho '{folder}'\n",  # the folder of Python.h
        folder / "pkg-config": "#!/bin/sh\n",
        folder / "g++": "#!/bin/sh\n",
        folder / "apt-get": "#!/bin/sh\nexit 1\n",
    }
    for path, text in programs.items():
        path.write_text(text)
        path.chmod(0o755)
    ended = subprocess.run(
        ["make", "setup", f"VENV={venv}", f"PYTHON={folder / 'python3'}", *options],
        cwd=ROOT,
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout
    assert (venv / "installed").exists()
    return calls.read_text().splitlines(), ended.stdout


def test_tested_versions_are_installed(tmp_path: Path):
    calls, _ = setup(tmp_path, fails=False)
    assert calls == [LIMITED]


def test_the_newest_versions_are_installed_if_tested_ones_are_unavailable(tmp_path: Path):
    calls, output = setup(tmp_path, fails=True)
    assert calls == [LIMITED, NEWEST]
    assert "The versions of constraints.txt cannot be installed here" in output


def test_an_empty_variable_asks_for_the_newest_versions(tmp_path: Path):
    calls, _ = setup(tmp_path, "CONSTRAINTS=", fails=False)
    assert calls == [NEWEST]


def test_each_requirement_has_a_tested_version_that_it_accepts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    tested = pinned_versions()
    for requirement in map(Requirement, needed):
        version = tested.get(canonical(requirement.name))
        assert version is not None, f"constraints.txt has no version of {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} refuses {version}"


def test_python_3_11_0_may_install_the_pinned_versions():
    """Checks the packages of this environment that have the tested version."""
    tested, num_checked = pinned_versions(), 0
    for installed in distributions():
        if tested.get(canonical(installed.name)) == installed.version:
            needs = installed.metadata.get("Requires-Python") or ""
            assert SpecifierSet(needs).contains("3.11.0"), f"{installed.name} needs {needs}"
            num_checked += 1
    assert num_checked


def pinned_versions() -> dict[str, str]:
    """Return the versions in constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonical(name): version for name, version in pins.items()}


def canonical(name: str) -> str:
    """Return a package's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
