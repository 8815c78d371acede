"""The command line: exit codes, errors without tracebacks, --json, suggested names, doctor."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from harness.cli.commands import doctor
from harness.cli.main import main
from harness.config.load import read
from harness.matrix.expand import expand
from harness.runner import result, retry
from harness.runner.context import StageContext
from harness.system import os_errors
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers import lease
from writers.errors import UserError

RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
targets:
  - {dataset: synthetic_patterns}
methods:
  fixed: {epochs: 2}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("HARNESS_DATA", "HARNESS_RAW", "HARNESS_RUNS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "tiny.yaml").write_text(RECIPE)


@pytest.fixture
def harness(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `harness ARGUMENTS`; returns (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capfd.readouterr()
        return end.value.code, out, err  # type: ignore[return-value]

    return run


def test_version_and_help_exit_with_0(harness):
    code, out, _ = harness("--version")
    assert code == 0 and out.startswith("harness ") and out.strip()[-1].isdigit()
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["write-beton", "-h"],
        ["subset", "rank", "--help"],
    ):
        code, out, err = harness(*arguments)
        assert code == 0 and out.startswith("Usage: harness") and not err


def test_every_command_has_help_and_a_line_in_the_list(harness):
    _, listing, _ = harness("--help")
    for path in (ROOT / "harness" / "cli" / "commands").glob("[a-z]*.py"):
        name = path.stem.replace("_", "-")
        code, out, _ = harness(name, "--help")
        assert code == 0 and "--" in out
        assert any(
            line.split()[:1] == [name] and not line.endswith("...") for line in listing.splitlines()
        ), name


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["plam"], "There is no command named 'plam'.", "Did you mean plan"),
        (["write_betons"], "There is no command named 'write_betons'.", "Did you mean write-beton"),
        (["run"], "Missing argument 'RECIPE'.", "See harness run --help."),
        (["plan", "tiny.yaml", "--sett", "a=b"], "No such option", "See harness plan --help."),
        (["plan", "tinny.yaml"], "There is no recipe tinny.yaml.", ""),
        (["plan", "dem"], "There is no recipe named 'dem'.", "Did you mean demo?"),
        (
            ["plan", "tiny.yaml", "--set", "archs=[resnet1]"],
            "--set archs=[resnet1]: archs.0: there is no model",
            "",
        ),
        (
            ["run", "tiny.yaml", "--launcher", "locale"],
            "There is no launcher named 'locale'.",
            "Did you mean local?",
        ),
        (["run", "tiny.yaml", "--jobs", "0"], "Invalid value for '--jobs'", ""),
        (["ls", "dataset"], "There is no kind named 'dataset'.", "Did you mean datasets"),
        (["subset", "show", "in90"], "", "in900"),
        (["verify", "nothing.beton"], "nothing.beton", ""),
        (["write-beton"], "There are no images to write", "harness ls datasets"),
        (["write-beton", "--source", "nowhere"], "nowhere", ""),
        (
            ["write-beton", "--dataset", "synthetic_thing"],
            "There is no dataset named",
            "synthetic_things",
        ),
    ],
)
def test_a_user_error_prints_two_lines_and_exits_with_2(harness, arguments, message, hint):
    code, out, err = harness(*arguments)
    assert code == 2 and not out and "Traceback" not in err
    assert message in err and hint in err and 1 <= len(err.strip().splitlines()) <= 2


def test_each_mistake_of_a_recipe_gets_a_line(harness):
    Path("tiny.yaml").write_text(
        RECIPE.replace("epochs", "epoch").replace("[resnet10]", "[resnet]")
    )
    code, _, err = harness("plan", "tiny.yaml")
    assert code == 2 and sorted(line.split(":")[1] for line in err.splitlines()) == ["4", "8"]


def test_a_bug_shows_its_traceback(monkeypatch):
    monkeypatch.setattr("harness.config.load.read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plan", "tiny.yaml"])


def test_an_interruption_is_one_line(harness, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.config.load.read", interrupted)
    code, out, err = harness("plan", "tiny.yaml")
    assert (code, out, err.strip()) == (130, "", "Interrupted.")


def test_errors_of_the_file_system_are_explained(harness, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28), "/data/train.beton")

    monkeypatch.setattr("harness.config.load.read", full)
    code, _, err = harness("plan", "tiny.yaml")
    assert code == 2 and err.startswith("The disk is full: /data/train.beton\n")
    assert os_errors.explain(OSError(71, "Protocol error")) is None


def test_output_to_a_closed_pipe_prints_no_error():
    """As in `harness ls | head -n 1`, if `head` ends before the list is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "harness.cli.main", "ls"]
    with os.fdopen(writing, "w") as pipe:
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert ended.stderr == ""


def test_plan_counts_done_stages_and_runs_nothing(harness):
    code, out, _ = harness("plan", "tiny.yaml", "--json")
    content = json.loads(out)
    assert code == 0 and content["num_stages"] == 5 and content["num_done"] == 0
    assert content["kinds"] == {
        "write": {"left": 2},
        "pretrain": {"left": 1},
        "evaluate": {"left": 1},
        "transfer": {"left": 1},
    }
    matrix = expand(read("tiny.yaml"))
    assert [stage["key"] for stage in content["stages"]] == [stage.key for stage in matrix.stages]
    assert not Path("runs").exists() and not Path("data").exists()

    last = matrix.stages[-1]
    folder = last.folder(Path("runs"))
    result.save(
        result.Result(
            kind=last.kind,
            key=last.key,
            name="",
            axes={},
            config={},
            needs={},
            metrics={},
            environment={},
            started_at="",
            wall_s=0,
        ),
        folder,
    )
    content = json.loads(harness("plan", "tiny.yaml", "--json")[1])
    assert content["num_done"] == 1 and content["stages"][-1]["state"] == "done"
    assert (
        json.loads(harness("plan", "tiny.yaml", "--json", "--runs-dir", "other")[1])["num_done"]
        == 0
    )
    code, out, _ = harness("plan", "tiny.yaml", "--stages")
    assert code == 0 and f"done     {last.key}  {last.name}" in out


def test_plan_of_imagenet_needs_no_imagenet(harness):
    content = json.loads(harness("plan", "robust_l2", "--json")[1])
    # 3 subsets x 3 eps x 3 seeds = 27 models; x 12 targets x 2 methods = 648 transfers.
    assert content["kinds"] == {
        "write": {"left": 15},
        "pretrain": {"left": 27},
        "evaluate": {"left": 27},
        "transfer": {"left": 648},
    }


def test_status_shows_running_failed_and_retried_stages(harness, monkeypatch):
    stages = expand(read("tiny.yaml")).stages
    failed, runs = (stage.folder(Path("runs")) for stage in stages[:2])
    failed.mkdir(parents=True)
    (failed / "error.txt").write_text(
        "Traceback (most recent call last):\n  ...\nValueError: bad\n"
    )
    retry.record_attempt(runs, "out_of_memory", "too large")
    for width in ("80", "140"):
        monkeypatch.setenv("COLUMNS", width)
        with lease.hold(runs):
            context = StageContext({}, runs, {}, {}, Path(), Path(), 1, "cpu")
            context.progress(done=10, total=40, img_per_s=1234.5)
            context.phase["at"] -= 1800.0
            context.progress(done=20, total=40, img_per_s=1234.5, note="lr 0.1")
            code, out, _ = harness("status", "tiny.yaml")
        assert code == 0
        assert "0 of 5 stages done, 1 running, 1 failed, 3 left; retries: 1" in out.replace(
            "\n", " "
        )
        assert "ValueError: bad" in out and "0/1" in out and "lr 0.1" in out
        row = next(line for line in out.splitlines() if "1,234" in line)
        assert (
            "50 %" in row and ("1 h 0 min" in row or "59 min" in row) and "1 out of memory" in row
        )
        assert all(len(line) <= int(width) for line in out.splitlines())
    (runs / "checkpoints").mkdir()
    (runs / "checkpoints" / "000000001.pt").touch()
    assert "1 failed, 4 left (1 begun)" in harness("status", "tiny.yaml")[1].replace("\n", " ")


def test_ls_lists_every_kind_with_descriptions(harness):
    content = json.loads(harness("ls", "--json")[1])
    assert {
        "datasets",
        "subsets",
        "models",
        "methods",
        "scores",
        "backends",
        "launchers",
        "trackers",
        "recipes",
    } == set(content)
    assert set(content) <= set(re.findall(r"\w+", harness("ls", "--help")[1]))
    assert "synthetic_things" in content["datasets"]
    assert "in900" in content["subsets"]
    assert "local" in content["launchers"]
    assert {"fixed", "full"} <= set(content["methods"])
    assert {"resnet10", "resnet18"} <= set(content["models"])
    assert all(line for lines in content.values() for line in lines.values()), (
        "each name has a description"
    )
    assert not any("yaml-language-server" in line for line in content["recipes"].values())
    code, out, _ = harness("ls", "models")
    assert code == 0 and "resnet18" in out and "pets" not in out
    code, out, _ = harness("ls")
    lines = [re.fullmatch(r" *(\d+) (\w+) +(.+)", line) for line in out.splitlines()]
    listed = {match[2]: (int(match[1]), match[3].split(", ")) for match in lines if match}
    assert listed == {kind: (len(names), list(names)) for kind, names in content.items()}
    assert code == 0 and len(out.splitlines()) == len(listed) + 2 and "harness ls KIND" in out


def test_subset_show_prints_names_and_digest(harness):
    content = json.loads(harness("subset", "show", "in900", "--json")[1])
    assert content["name"] == "in900" and content["num_classes"] == len(content["classes"]) == 900
    assert content["digest"] and all(name.startswith("n") for name in content["classes"])


def test_verify_accepts_a_written_beton_and_reports_a_damaged_one(harness, tmp_path):
    arguments = (
        "write-beton",
        "--dataset",
        "synthetic_patterns",
        "--max-resolution",
        "32",
        "--out",
        "betons",
    )
    code, out, _ = harness(*arguments, "--split", "val", "--json")
    (manifest,) = json.loads(out)
    assert code == 0 and manifest["split"] == "val" and manifest["num_samples"] > 0
    assert {"name", "classes", "encoding", "source", "sha256"} <= set(manifest)
    file = Path("betons/val.beton")
    code, out, _ = harness("verify", str(file))
    assert code == 0 and out == f"{file}: good\n"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    file.write_bytes(damaged)
    code, out, err = harness("verify", str(file), "--json")
    assert code == 1 and json.loads(out)[str(file)]
    code, _, err = harness(*arguments, "--split", "nights")
    assert code == 2 and "nights" in err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_at_run_ends_cleanly(stop: signal.Signals):
    line = [
        sys.executable,
        "-m",
        "harness.cli.main",
        "run",
        "tiny.yaml",
        "--jobs",
        "1",
        "--stages-package",
        "tests.helpers.slow_stages",
    ]
    run = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 240
    while not list(Path("runs").glob("stages/*/*/progress.json")):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.02)
    run.send_signal(stop)
    _, stderr = run.communicate(timeout=240)
    assert run.returncode == 130 and "Traceback" not in stderr
    assert "Resume with:\n  harness run tiny.yaml --jobs 1" in stderr
    assert not list(Path("runs").glob("stages/*/*/error.txt"))


def test_folders_come_from_options_then_variables_then_defaults(monkeypatch, tmp_path):
    from harness.cli.options import folder_options

    seen: list[Folders] = []

    @click.command()
    @folder_options
    def command(folders: Folders) -> None:
        seen.append(folders)

    monkeypatch.setenv("HARNESS_RAW", "~/raw")
    command.main(["--data-dir", "/betons"], standalone_mode=False)
    assert seen == [Folders(Path("/betons"), Path.home() / "raw", tmp_path / "runs")]


def test_doctor_names_the_fix():
    bad = doctor._import("ffcv", "import no_such_library", "Install it.")
    assert not bad.good and "no_such_library" in bad.found and bad.fix == "Install it."
    good = doctor._import("fine", "print('all', 'well')", "")
    assert good.good and good.found == "all well"
    full = doctor._disk("$HARNESS_DATA", Path("/proc/betons"))
    assert not full.good and "HARNESS_DATA" in full.fix
    assert not Path("here").exists()
    assert "here" in doctor._disk("$HARNESS_RUNS", Path("here").absolute()).found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the self-test, shared so that its images are generated once."""
    return tmp_path_factory.mktemp("self_test")


def test_the_self_test_decodes_jpegs(drawn):
    from harness.cli.self_test import compare_backends

    match = re.match(
        r"wrote 160 images, (\d+) of them as JPEG; .* the same pixels", compare_backends(drawn)
    )
    assert match is not None and 120 < int(match[1]) < 160


def _one_level_off(images: np.ndarray, flips: np.ndarray) -> None:
    images[0, 5, 7, 1] ^= 1


def _flipped_vertically(images: np.ndarray, flips: np.ndarray) -> None:
    images[flips] = images[flips, :, ::-1]


def _blue_first(images: np.ndarray, flips: np.ndarray) -> None:
    images[:] = images[..., ::-1].copy()


@pytest.mark.parametrize("spoil", [_one_level_off, _flipped_vertically, _blue_first])
def test_the_self_test_finds_a_wrong_kernel(drawn, monkeypatch, spoil):
    from harness.cli.self_test import compare_backends
    from loaders.decode import BatchDecoder

    decode = BatchDecoder.decode

    def wrong(decoder, positions, crops, output):
        errors = decode(decoder, positions, crops, output)
        spoil(output.reshape(-1, *output.shape[-3:]), crops.flips)
        return errors

    monkeypatch.setattr(BatchDecoder, "decode", wrong)
    with pytest.raises(AssertionError, match="FFCV and the reference differ in"):
        compare_backends(drawn)


def test_user_error_formats_as_two_lines():
    assert str(UserError("What.", "Fix.")) == "What.\nFix."
