"""A stage kind and a method that are defined outside the harness work with every command."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import harness.stages
import harness.transfer.methods
from harness.cli.benches._fabricate import write_results
from harness.cli.main import main
from harness.config import methods
from harness.config.load import read
from harness.matrix import expand, stage_kind
from harness.matrix.stage import Stage
from harness.runner import result

RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
targets:
  - {dataset: synthetic_patterns}
methods:
  bias: {epochs: 2, strength: 0.25}
  full: {epochs: 2}
"""
# A kind with an input that no stage writes, an output file and a model, which gates other stages.
SPEC = """
from harness.matrix.stage_kind import StageKind

SPEC = StageKind(
    version=3,
    makes_model=True,
    in_status="preparation",
    input_settings=("digest",),
    outputs=("student.pt",),
    work=lambda config: 2.0,
    is_incomplete=lambda metrics: metrics["num_missing"] > 0,
    chosen_fraction=lambda config: 0.5,
)
"""
SETTINGS = """
from typing import ClassVar

from harness.config.transfer import TransferSettings


class BiasSettings(TransferSettings):
    TRAINS_HEAD_ONLY: ClassVar[bool] = True

    strength: float = 0.5


SETTINGS = BiasSettings
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder; `distill` is a kind of stage and `bias` is a method."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HARNESS_DATA", "HARNESS_RAW", "HARNESS_RUNS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    for package, name, file, text in (
        (harness.stages, "distill", "spec.py", SPEC),
        (harness.transfer.methods, "bias", "settings.py", SETTINGS),
    ):
        new = tmp_path / package.__name__ / name
        new.mkdir(parents=True)
        (new / "__init__.py").write_text(f'"""Made up: {name}."""\n')
        (new / file).write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(new.parent)])
    yield tmp_path
    for module in [name for name in sys.modules if name.endswith((".distill", ".bias"))]:
        del sys.modules[module]
        sys.modules.pop(f"{module}.spec", None)
        sys.modules.pop(f"{module}.settings", None)
    stage_kind.find.cache_clear()
    methods.settings_model.cache_clear()


@pytest.fixture
def with_distillation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes have a stage of the new kind for each pretrained model."""
    stages_of = expand._stages

    def more(*arguments: Any) -> Iterator[Stage]:
        for stage in stages_of(*arguments):
            yield stage
            if stage.kind == "pretrain":
                needs = {"data": stage.needs["data"], "teacher": stage}
                config = {"digest": "0", "settings": {"resolution": 32}}
                axes = {**stage.axes, "dataset": "synthetic_things"}
                yield Stage("distill", config, needs, axes, f"distill/{stage.name}")

    monkeypatch.setattr(expand, "_stages", more)


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `harness ARGUMENTS`, which succeeds; returns its stdout."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capfd.readouterr()
        assert end.value.code == 0, err
        return out

    return run


def test_a_new_method_is_read_planned_and_reported(run: Callable[..., str]) -> None:
    assert "Made up: bias." in run("ls", "methods")
    plan = json.loads(run("plan", "tiny.yaml", "--json"))
    assert [row["axes"]["method"] for row in plan["stages"] if row["kind"] == "transfer"] == [
        "bias",
        "full",
    ]
    matrix = expand.expand(read("tiny.yaml"))
    (biased,) = [stage for stage in matrix.stages if stage.axes.get("method") == "bias"]
    assert biased.config["settings"]["strength"] == 0.25, "the method's setting is part of the key"
    write_results(matrix.stages, Path("runs"))
    assert "bias" in run("status", "tiny.yaml")
    run("report", "tiny.yaml")
    assert any("bias" in file.read_text() for file in Path("runs").rglob("transfer.csv"))


@pytest.mark.usefixtures("with_distillation")
def test_a_new_kind_is_planned_shown_reported_and_deleted(run: Callable[..., str]) -> None:
    plan = json.loads(run("plan", "tiny.yaml", "--json"))
    assert plan["kinds"]["distill"] == {"left": 1}
    assert "distill/pretrain/" in run("status", "tiny.yaml")

    matrix = expand.expand(read("tiny.yaml"))
    (stage,) = [stage for stage in matrix.stages if stage.kind == "distill"]
    write_results(matrix.stages, Path("runs"))
    folder = stage.folder(Path("runs"))
    (folder / "student.pt").write_bytes(bytes(5000))
    record = json.loads((folder / result.FILE_NAME).read_text())

    for num_missing, state in ((0, "done"), (1, "left"), (0, "done")):
        record["metrics"] = {"num_missing": num_missing, "predictions": "p.npz"}
        (folder / result.FILE_NAME).write_text(json.dumps(record))
        plan = json.loads(run("plan", "tiny.yaml", "--json"))
        assert plan["kinds"]["distill"] == {state: 1}
    run("report", "tiny.yaml")
    reported = [
        line
        for file in Path("runs").rglob("stages.csv")
        for line in file.read_text().splitlines()
        if line.startswith("distill,")
    ]
    assert len(reported) == 1

    beton = Path("data", f"things-all-{stage.key}", "train.beton")
    beton.parent.mkdir(parents=True)
    beton.write_bytes(bytes(10))
    kept = {"name": "other", "targets": [{"dataset": "synthetic_scenes"}], "methods": {"full": {}}}
    other = {**kept, "source": {"dataset": "synthetic_scenes"}, "subsets": ["all"]}
    Path("other.yaml").write_text(json.dumps({**other, "archs": ["resnet10"]}))
    listed = {
        file["path"]: file["reason"]
        for file in json.loads(run("gc", "--unused", "other.yaml", "--json"))["files"]
    }
    assert listed[str(folder.resolve())] == "stage of no recipe"
    assert listed[str(beton.parent.resolve())] == "betons of no recipe"


@pytest.mark.usefixtures("with_distillation")
def test_a_changed_digest_of_a_new_kind_is_a_changed_input(run: Callable[..., str]) -> None:
    stages = expand.expand(read("tiny.yaml")).stages
    before = [
        Stage(stage.kind, {**stage.config, "digest": "1"}, stage.needs, stage.axes, stage.name)
        if stage.kind == "distill"
        else stage
        for stage in stages
    ]
    write_results(before, Path("runs"))
    plan = json.loads(run("plan", "tiny.yaml", "--json"))
    assert plan["outdated"] == {"changed input": 1}
