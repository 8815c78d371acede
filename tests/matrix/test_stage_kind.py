"""A new kind of stage is a package, listed nowhere; it is planned and run like the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.matrix import stage_kind
from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import result
from harness.runner.executor import Run, unfinished
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.stage_state import is_done
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers import names
from writers.errors import UserError

KINDS = names.names("harness.stages")
SPEC = """
from harness.matrix.stage_kind import StageKind

SPEC = StageKind(
    version=7,
    needs_gpu=False,
    tolerates_failed_needs=True,
    outputs=("sum.txt",),
    work=lambda config: 3.0,
)
"""
RUN = """
from harness.runner.context import Outcome


def run(context):
    if context.config.get("fail"):
        raise ZeroDivisionError
    total = context.config["value"] + sum(
        need.metrics["total"] for need in context.needs.values()
    )
    (context.folder / "sum.txt").write_text(str(total))
    return Outcome({"total": total})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one new kind of stage, `add`."""
    name = f"stages_of_{tmp_path.name}"
    folder = tmp_path / "packages" / name / "add"
    folder.mkdir(parents=True)
    for file, text in (("__init__", ""), ("spec", SPEC), ("run", RUN)):
        (folder / f"{file}.py").write_text(text)
    (folder.parent / "__init__.py").touch()
    paths = [str(folder.parents[1]), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(str(folder.parents[1]))
    return name


def test_a_kind_in_another_package_is_planned_and_run(package: str, tmp_path: Path):
    folders = Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")

    def stage(name: str, *needs: Stage, **config: object) -> Stage:
        roles = {f"term_{index}": need for index, need in enumerate(needs)}
        return Stage("add", config, roles, {}, name, package=package)

    two, three, broken = (
        stage("two", value=2),
        stage("three", value=3),
        stage("broken", value=9, fail=True),
    )
    total = stage("total", two, three, broken, value=10)
    matrix = Matrix(None, (two, three, broken, total))  # type: ignore[arg-type]
    assert matrix.urgency == {two.key: 6.0, three.key: 6.0, broken.key: 6.0, total.key: 3.0}
    settings = LauncherSettings(folders, 2, "cpu", stages_package=package)
    with local.open(settings) as launcher:
        run = Run(matrix, folders, launcher)
        for _ in run.events():
            pass
    assert set(run.failed) == {broken.key}
    record = result.load(total.folder(folders.runs))
    assert record is not None and record.metrics == {"total": 15}  # without the failed need
    assert is_done(total.spec, total.folder(folders.runs), folders.data)
    (two.folder(folders.runs) / "sum.txt").unlink()
    assert not is_done(two.spec, two.folder(folders.runs), folders.data)
    assert list(unfinished(matrix, folders)) == [broken.key], "no stage to run needs the lost file"


def test_a_kind_is_searched_in_the_given_package_first(package: str):
    assert stage_kind.find("add", package).version == 7
    assert stage_kind.find("write", package) is stage_kind.find("write")
    with pytest.raises(UserError, match=r"no kind of stage named 'wrte'.*\n?.*write"):
        stage_kind.find("wrte", package)


def test_an_import_error_inside_a_spec_is_not_hidden(package: str, tmp_path: Path):
    folder = tmp_path / "packages" / package / "broken"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "spec.py").write_text("import no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        stage_kind.find("broken", package)


def test_specs_import_no_torch():
    code = (
        f"import sys\nfrom harness.matrix import stage_kind\nfor kind in {KINDS!r}:\n"
        "    stage_kind.find(kind)\n"
        "    assert not {'torch', 'torchvision', 'ffcv'} & sys.modules.keys(), kind\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_kind_is_a_package_with_a_spec_and_a_run_module():
    assert {"write", "pretrain", "evaluate", "transfer"} <= set(KINDS)
    for kind in KINDS:
        assert (ROOT / "harness" / "stages" / kind / "run.py").is_file()
        assert stage_kind.find(kind).version >= 1
