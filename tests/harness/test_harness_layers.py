"""The arrows of harness/README.md: who may import whom, and what stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("writers", "loaders", "harness")

# harness, from the top: a module may import those of its own level and of the levels below.
LEVELS = (
    {"cli", "commands"},
    {
        "executor",
        "display",
        "launcher",
        "launchers",
        "remote",
        "fork_server",
        "worker",
        "worker_options",
        "processes",
        "stop_signal",
        "self_test",
        "cpu_check",
        "calibrate",
        "catalogue",
        "bench",
        "corpus",
        "benches",
    },
    {"stages"},
    {
        "train",
        "method",
        "methods",
        "score",
        "scores",
        "model",
        "models",
        "zoo",
        "weights",
        "importing",
        "adopting",
        "features",
        "pass_progress",
        "logistic",
        "probe",
        "blur_pool",
        "blocks",
        "regularisers",
        "search",
        "report",
        "workload",
        "calibration",
        "estimate",
    },
    {
        "recipe",
        "recipe_check",
        "matrix",
        "stage",
        "result",
        "settings",
        "timer",
        "checkpoint",
        "distributed",
        "done",
        "disk",
        "lock",
        "lease",
        "cancel",
        "retry",
        "image_counts",
        "raw",
        "environment",
        "folders",
        "console",
        "provenance",
        "slot_time",
        "gpu_sharing",
        "grid",
        "method_check",
        "method_presets",
        "matrix_transfers",
        "matrix_zoo",
        "matrix_models",
        "points",
        "base_settings",
        "attack_settings",
        "train_settings",
        "transfer_settings",
        "model_settings",
        "zoo_names",
        "shortlist",
        "presets",
        "recipe_schema",
    },
)


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file: `a.b` and `from a import b` are both `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively, which hides the arrow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(module: str) -> int:
    room = module.split(".")[1]
    found = [index for index, names in enumerate(LEVELS) if room in names]
    assert found, f"harness/{room} has no level; give it one in this test and in harness/README.md"
    return found[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path):
    room = path.relative_to(ROOT).parts[0]
    above = ROOMS[ROOMS.index(room) + 1 :]
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in above, f"{path.relative_to(ROOT)} imports {module}"
        assert top not in ("tests", "benchmarks")
    if room == "harness" and path != ROOT / "harness" / "__init__.py":
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for module in imports(path):
            if module.startswith("harness."):
                assert level(module) >= level(own), f"{own} imports {module}, which stands above it"


def test_the_check_sees_a_forbidden_import(tmp_path: Path):
    file = tmp_path / "sneaky.py"
    file.write_text("def f():\n    from harness.commands import run\n    import loaders.plan\n")
    assert imports(file) == {"harness.commands.run", "loaders.plan"}
    assert level("harness.commands.run") < level("harness.matrix")


LIGHT = [
    "harness.cli",
    "harness.recipe",
    "harness.matrix",
    "harness.executor",
    "harness.display",
    "harness.worker",
    "harness.launchers.local",
    "harness.report.page",
    "harness.catalogue",
    "loaders.plan",
    "writers.write",
    "writers.store",
    "harness.stages.write",
    *(
        f"harness.commands.{path.stem}"
        for path in sorted((ROOT / "harness" / "commands").glob("[a-z]*.py"))
    ),
]


def test_light_modules_import_no_torch():
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'torchvision', 'ffcv'} & sys.modules.keys()\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_help_imports_next_to_nothing():
    code = (
        "import sys\nfrom harness.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'ruamel', 'numba', 'ffcv'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "write-beton" in ended.stdout
