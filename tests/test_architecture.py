"""The structure that docs/architecture.md describes: import order, and modules that must not import torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter import cli as import_linter

from tests.helpers import ROOT

HEAVY = ("torch", "torchvision", "ffcv")
# Modules that serve help, ls, plan, status and report, and the parts of the runner that start workers.
LIGHT = [
    "harness.cli.main",
    "harness.config.load",
    "harness.matrix.expand",
    "harness.runner.executor",
    "harness.runner.worker",
    "harness.runner.launchers.local",
    "harness.cli.live_table",
    "harness.report.render.page",
    "harness.stages.write.run",
    "loaders.plan",
    "writers.beton.write",
    "writers.beton.store",
    *sorted(
        f"harness.cli.commands.{path.stem}"
        for path in (ROOT / "harness" / "cli" / "commands").glob("[a-z]*.py")
    ),
]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_imports_follow_the_contracts_of_pyproject(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert import_linter.lint_imports(no_cache=True) == import_linter.EXIT_STATUS_SUCCESS


def test_contracts_find_a_forbidden_import(tmp_path: Path):
    for package in ("upper", "lower"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "lower" / "sneaky.py").write_text("def f():\n    import upper\n")
    (tmp_path / "contracts.toml").write_text(
        "[tool.importlinter]\nroot_packages = ['upper', 'lower']\n"
        "[[tool.importlinter.contracts]]\nname = 'order'\ntype = 'layers'\n"
        "layers = ['upper', 'lower']\n"
    )
    code = (
        "import sys; sys.path.insert(0, '.'); from importlinter import cli; "
        "sys.exit(cli.lint_imports(config_filename='contracts.toml', no_cache=True))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == import_linter.EXIT_STATUS_ERROR, ended.stderr
    assert "lower.sneaky" in ended.stdout


def test_light_modules_import_no_torch():
    """One process imports the modules in turn; the error names the first that imports torch."""
    code = (
        f"import importlib, sys\nfor module in {LIGHT!r}:\n"
        f"    importlib.import_module(module)\n    heavy = set({HEAVY!r}) & sys.modules.keys()\n"
        "    assert not heavy, (module, heavy)\n"
    )
    ended = run_python(code)
    assert ended.returncode == 0, ended.stderr


def test_help_imports_no_numerical_library():
    code = (
        "import sys\nfrom harness.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'ruamel', 'numba', 'ffcv'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    ended = run_python(code)
    assert ended.returncode == 0, ended.stderr
    assert "write-beton" in ended.stdout


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # What `harness run` imports before its first stages start, while all slots wait.
        ("harness.cli.live_table, harness.runner.inputs, harness.runner.launchers.local", "numpy"),
        ("harness.worker, harness.stages.write.run", "harness.config.recipe"),
        ("harness.report.render.page", "scipy.stats"),
    ],
)
def test_a_run_does_not_wait_for_slow_imports(modules: str, absent: str):
    ended = run_python(f"import sys, {modules}\nassert {absent!r} not in sys.modules\n")
    assert ended.returncode == 0, ended.stderr


def test_only_entry_points_are_directly_in_harness():
    found = {path.name for path in (ROOT / "harness").glob("*.py")}
    assert found == {"__init__.py", "api.py", "worker.py"}
