"""`harness bench matrix`: accounting of slot-seconds, finished stages, and stages that share a GPU.

A slot runs one stage at a time. A run has (number of slots) x (its seconds) slot-seconds.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from harness.cli.benches import _mps, _packing, _rounds
from harness.cli.benches._matrix_runs import (
    MatrixRuns,
    cpu_outside_stages_s,
    one_epoch_settings,
)
from harness.cli.benches.matrix import markdown
from harness.cli.main import cli
from harness.config.load import read
from harness.matrix.stage import Stage
from harness.runner.result import Result
from harness.runner.slot_time import Span, account, spans_of, startup_key
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers.errors import UserError

RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
targets: [{dataset: synthetic_patterns}]
methods: {full: {lrs: [0.1]}}
"""


@pytest.mark.parametrize(
    ("recipe", "lengths"),
    [
        ("imagenet_rn18_16", {}),  # its preset trains with progressive resizing
        ("real_check", {"logreg": None}),
        ("vtab", {"full": ("grid.steps", (1,))}),
        ("photos", {"fixed": ("epochs", 1), "full": ("epochs", 1)}),
    ],
)
def test_every_training_of_a_recipe_can_be_shortened(recipe, lengths):
    shortened = read(recipe, one_epoch_settings(recipe, []))
    if shortened.subsets:
        assert shortened.pretrain.epochs == 1
    for label, expected in lengths.items():
        method = shortened.methods[label]
        if expected is None:
            assert method == read(recipe).methods[label]
        else:
            setting, length = expected
            assert attrgetter(setting)(method) == length


def test_every_slot_second_is_counted_once():
    """Two slots. b and c need a, which runs from 2 s to 10 s. d is ready at 2 s, starts at 5 s."""
    spans = [
        Span("a", (), 2, 10, own_s=6, import_s=1.5, first_use_s=0.25),
        Span("d", (), 5, 7, own_s=2, import_s=0, first_use_s=0),
        Span("b", ("a",), 10, 13, own_s=3, import_s=0, first_use_s=0),
        Span("c", ("a", "of another recipe"), 11, 12, own_s=1, import_s=0, first_use_s=0),
    ]
    parts = account(spans, 2, began=0, ended=16)
    assert parts["start of the command"] == 2 * 2 and parts["report and exit"] == 2 * 3
    assert parts["ready stages waiting"] == 3 + 1  # d from 2 to 5; c from 10 to 11
    assert parts["no_stage_ready"] == 3 + 1  # from 7 to 10; from 12 to 13
    assert parts["imports"] == 1.5
    assert parts["first use of compiled code"] == 0.25
    assert parts["own_work"] == 12
    assert parts["start of workers, leases, results"] == pytest.approx(0.25)
    assert sum(parts.values()) == pytest.approx(2 * 16)
    watched = [
        (1, 0.0),
        (3, 1.0),
        (5, 1.5),
        (7, 1.75),
        (9, 4.0),
        (10, 4.5),
        (10.5, 4.75),
        (11, 5.0),
        (12, 5.5),
        (14, 6.0),
    ]
    with_command = account(spans, 2, began=0, ended=16, other_cpu=watched)
    # Both slots are busy from 5 s to 7 s (a and d) and from 11 s to 12 s (b and c).
    assert with_command["taken from stages"] == 0.25 + 0.5
    assert with_command["own_work"] == 12 - 0.75
    assert sum(with_command.values()) == pytest.approx(2 * 16)


def test_cpu_time_includes_the_children_of_a_process():
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = burn + "time.sleep(600)"
    code = f"import subprocess, sys, time\n{burn}subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        cpu_s = 0.0
        # Parent and child use 0.3 s of CPU time each. pytest's time limit ends an endless wait.
        while cpu_s < 0.55:
            assert process.poll() is None
            cpu_s = cpu_outside_stages_s(process.pid)
        os.killpg(process.pid, signal.SIGKILL)


def test_first_use_is_the_extra_startup_of_the_first_stage(tmp_path: Path):
    results = []
    for seed, startup_s in enumerate((3.0, 0.5)):
        stage = Stage("pretrain", {"seed": seed}, axes={"eps": 0.0})
        folder = stage.folder(tmp_path)
        folder.mkdir(parents=True)
        for name in ("stage.json", "result.json"):
            (folder / name).touch()
        results.append(
            (
                stage,
                Result(
                    kind="pretrain",
                    key=stage.key,
                    name="",
                    axes={},
                    config={},
                    needs={},
                    metrics={},
                    timing={"startup_s": startup_s},
                    environment={},
                    started_at="",
                    wall_s=10,
                ),
            )
        )
    first, second = spans_of(results, tmp_path)
    assert (first.first_use_s, first.own_s) == (2.5, 7.5)
    assert (
        second.first_use_s,
        second.own_s,
    ) == (0, 10)


def fabricated(recipe: Path, *overrides: str) -> dict[object, Result]:
    """Make results of a recipe in place of those of a warm-up run; return `startup_key` -> result."""
    from tests.helpers.report_fakes import make_results

    return {
        startup_key(Stage(result.kind, {}, axes=result.axes)): result
        for result in make_results(read(recipe, overrides))
    }


def test_a_run_of_many_finished_stages_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    templates = fabricated(tmp_path / "tiny.yaml", "pretrain.epochs=2")
    finished = MatrixRuns(
        str(tmp_path / "tiny.yaml"), ["pretrain.epochs=2"], tmp_path / "scratch", 1
    ).finished(40, templates, 1)
    assert finished["num_stages"] >= 40
    assert finished["rounds"][0]["run_s"] > 0
    assert finished["run_with_report_s"] > 0
    record = json.loads(
        json.dumps(
            {
                "finished": finished,
                "contenders": {},
                "absent": {"packing": "there is no GPU"},
                "ratios": [],
                "date": "",
                "environment": {"cpu": "cpu", "num_cores": 2, "packages": {}},
            }
        )
    )
    assert "finished stages" in markdown(record) and "there is no GPU" in markdown(record)


def test_a_time_limit_leaves_out_rounds_of_the_whole_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr(_rounds, "time", SimpleNamespace(monotonic=lambda: now[0]))
    row = {"wall_s": 40.0, "num_slots": 2, "num_stages": 3, "slot_s": 80.0, "parts_s": {}}

    class Runs:
        def __init__(self, *arguments: object) -> None:
            pass

        def warm_up(self) -> dict[str, object]:
            return {}

        def overhead(self, number: int) -> dict[str, object]:
            now[0] += 40
            return row | {"number": number, "overhead_share": 0.01}

    monkeypatch.setattr("harness.cli.benches.matrix.MatrixRuns", Runs)
    file = tmp_path / "record.json"
    arguments = ["--rounds", "5", "--time-limit", "100", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(
        cli,
        ["bench", "matrix", "--overhead", *arguments, "--json", str(file)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    record = json.loads(file.read_text())
    assert [round_["number"] for round_ in record["overhead"]] == [0, 1]  # a third ends at 120 s
    assert (record["rounds_complete"], record["rounds_planned"]) == (2, 5)


@pytest.mark.parametrize(
    ("limit", "num_rounds"),
    # A warm-up of 10 s and a run of 20 s that writes the report precede rounds of 5 + 20 s.
    [
        ((), 5),
        (("--time-limit", "104"), 2),
        (("--time-limit", "106"), 3),
        (("--time-limit", "1"), 1),
    ],
)
def test_a_time_limit_leaves_out_rounds_of_a_finished_matrix(
    limit: tuple[str, ...], num_rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr(_rounds, "time", SimpleNamespace(monotonic=lambda: now[0]))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)

    class Runs(MatrixRuns):
        def warm_up(self) -> dict[object, Result]:
            now[0] += 10
            return fabricated(recipe)

        def _harness(self, command: str, *_: object) -> float:
            took_s = {"plan": 5.0, "run": 20.0}[command]
            now[0] += took_s
            return took_s

    monkeypatch.setattr("harness.cli.benches.matrix.MatrixRuns", Runs)
    file = tmp_path / "record.json"
    arguments = ["--finished", "--recipe", str(recipe), "--stages", "20", "--rounds", "5", *limit]
    result = CliRunner().invoke(
        cli,
        ["bench", "matrix", *arguments, "--data-dir", str(tmp_path), "--json", str(file)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    record = json.loads(file.read_text())
    assert record["finished"]["rounds"] == [{"plan_s": 5.0, "run_s": 20.0}] * num_rounds
    assert (record["rounds_complete"], record["rounds_planned"]) == (num_rounds, 5)
    assert len(list(tmp_path.iterdir())) == 2, "the scratch folder is deleted"


def test_packing_without_a_gpu_records_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("harness.system.environment.gpu_names", list)
    result = CliRunner().invoke(
        cli,
        [
            "bench",
            "matrix",
            "--packing",
            "--data-dir",
            str(tmp_path),
            "--json",
            str(tmp_path / "record.json"),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0 and "there is no GPU" in result.output
    assert json.loads((tmp_path / "record.json").read_text())["absent"] == {
        "packing": "there is no GPU"
    }


def test_mps_runs_inside_the_block_with_its_files_in_one_folder(tmp_path, monkeypatch):
    """A shell script replaces the control program of NVIDIA's multi-process service (MPS)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    with pytest.raises(UserError, match="There is no nvidia-cuda-mps-control"):
        _mps.mps_daemon(tmp_path / "mps").__enter__()
    control = tmp_path / _mps.CONTROL
    log = tmp_path / "log"
    note = f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {log}\n[ "$1" = -d ] || read word\n'
    control.write_text(f"{note}echo $word >> {log}\n")
    control.chmod(0o755)
    with _mps.mps_daemon(tmp_path / "mps") as places, _mps.variables(places):
        assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "mps")
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert log.read_text().split() == ["-d", str(tmp_path / "mps"), str(tmp_path / "mps"), "quit"]
    control.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match="does not start"):
        _mps.mps_daemon(tmp_path / "mps").__enter__()


class Launcher:
    """Launcher that records whether MPS is on when it is created."""

    def __init__(self, *_: object) -> None:
        self.has_mps = "CUDA_MPS_PIPE_DIRECTORY" in os.environ

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StagesOfClientsFail:
    """Run whose stages fail if MPS was on when its launcher was created."""

    def __init__(self, matrix: object, folders: object, launcher: Launcher) -> None:
        self.failed = {"tune": "CUDA cannot use the GPU"} if launcher.has_mps else {}

    def events(self) -> list[object]:
        return []


def test_packing_is_measured_without_mps_if_all_stages_fail_under_mps(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    places = {"CUDA_MPS_PIPE_DIRECTORY": "mps"}
    monkeypatch.setattr(_packing, "mps_daemon", lambda folder: nullcontext(places))
    monkeypatch.setattr(_packing, "make_slots", lambda settings: [])
    monkeypatch.setattr(_packing, "Run", StagesOfClientsFail)
    monkeypatch.setattr(_packing.local, "LocalLauncher", Launcher)
    data = Stage("data", {})
    needs = {"model": Stage("pretrain", {}, needs={"data": data}), "data": data}
    tune = Stage("transfer", {"seed": 0}, needs=needs, axes={"method": "full"}, name="tune")
    absent: dict[str, str] = {}
    measured = _packing.measure_packing(
        SimpleNamespace(recipe=None, stages=[tune]),
        Folders(tmp_path, tmp_path, tmp_path),
        2,
        None,
        lambda measured: None,
        absent,
    )
    assert {name: len(row.rates) for name, row in measured.items()} == {"together": 2, "alone": 2}
    assert "CUDA cannot use the GPU" in absent["together:mps"]
