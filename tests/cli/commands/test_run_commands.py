"""`harness run`, `logs`, `cancel` and `gc`, on stages of a real run or on made-up folders."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness.cli.commands.run import _stopping
from harness.cli.main import main
from harness.config.load import read
from harness.matrix.expand import expand
from harness.runner import fork_server, stage_state
from harness.runner.cancel import Watch, file_of, request
from harness.runner.executor import Run
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers import lease

RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)


def harness(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def stage(kind: str, key: str, *, name: str = "", result: bool = True) -> Path:
    folder = Path("runs/stages") / kind / key
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "000000001.pt").write_bytes(bytes(2_000_000))
    (folder / "stage.json").write_text(json.dumps({"name": name or f"{kind}/{key}"}))
    (folder / "log.txt").write_text("one\ntwo\nthree\n")
    if result:
        (folder / "result.json").write_text("{}")
    return folder


def test_cancel_stops_a_run_of_another_process():
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
    assert harness("cancel", "tiny.yaml") == 0
    _, stderr = run.communicate(timeout=240)
    assert run.returncode == 130 and "Resume with" in stderr and "Traceback" not in stderr
    assert not any(lease.is_held(folder) for folder in Path("runs").glob("stages/*/*"))


def test_a_run_that_ends_with_an_error_stops_its_stages_first(monkeypatch: pytest.MonkeyPatch):
    def follow(run: Run, _: object) -> None:
        for _ in run.events():
            if list(Path("runs").glob("stages/*/*/progress.json")):
                raise ZeroDivisionError("a bug")

    stopped = []
    stop = Run.stop
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("harness.cli.live_table.follow", follow)
    monkeypatch.setattr(Run, "stop", lambda run, grace_s: (stop(run, grace_s), stopped.append(run)))
    kept = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ZeroDivisionError):
            main(
                [
                    "run",
                    "tiny.yaml",
                    "--jobs",
                    "1",
                    "--device",
                    "cpu",
                    "--stages-package",
                    "tests.helpers.slow_stages",
                ]
            )
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert len(stopped) == 1 and not stopped[0].running


def test_failures_are_printed_before_a_failing_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(run: Run, _: object) -> None:
        run.failed = dict.fromkeys(run.pending, "There is no such image.")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/reports/tiny/index.html")

    monkeypatch.setattr("harness.cli.live_table.follow", fail)
    monkeypatch.setattr("harness.cli.commands.run._report", full)
    kept = signal.getsignal(signal.SIGTERM)
    try:
        assert harness("run", "tiny.yaml") == 2
    finally:
        signal.signal(signal.SIGTERM, kept)
    stderr = capsys.readouterr().err
    assert "There is no such image." in stderr and "error.txt" not in stderr
    assert stderr.index("There is no such image.") < stderr.index(
        "The disk is full: runs/reports/tiny/index.html"
    )


def test_every_missing_input_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Inputs of finished stages, and what stages of the same run write, are not missing."""
    Path("mine.yaml").write_text(
        RECIPE.replace("tiny", "mine")
        + "models: [{name: lost, checkpoint: lost.pt, arch: resnet10},"
        " {name: done, checkpoint: done.pt, arch: resnet10}]\n"
        "targets: [{path: photos}, {dataset: beton, path: my.beton}]\n"
        "methods: {logreg: {}}\n"
    )
    folders = Folders.resolve("data", "raw", "runs")
    stages = expand(read("mine.yaml")).stages
    done = next(planned for planned in stages if planned.name == "adopt/done")
    done.folder(folders.runs).mkdir(parents=True)
    (done.folder(folders.runs) / "model.pt").touch()
    (done.folder(folders.runs) / "result.json").write_text("{}")
    names = [f"raw/{name}" for name in ("photos", "my.beton", "weights/lost.pt")]

    assert harness("run", "mine.yaml") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 inputs of mine cannot be read:" and len(lines) == 5
    assert all(f"There is no {tmp_path / name}." in "\n".join(lines[1:4]) for name in names)
    assert "--allow-missing" in lines[4]
    assert not list(Path("runs/stages").glob("*/*/stage.json"))

    assert harness("plan", "mine.yaml", "--json") == 0
    found = json.loads(capsys.readouterr().out)["missing_inputs"]
    assert found == ["images of photos", "images of beton", "weights of lost"]

    pending: list[str] = []
    monkeypatch.setattr(
        "harness.cli.live_table.follow",
        lambda run, _: pending.extend(planned.name for planned in run.pending.values()),
    )
    monkeypatch.setattr("harness.cli.commands.run._report", lambda *_: Path("runs/index.html"))
    kept = signal.getsignal(signal.SIGTERM)
    try:
        assert harness("run", "mine.yaml", "--allow-missing") == 0
    finally:
        signal.signal(signal.SIGTERM, kept)
    shown = capsys.readouterr().err
    assert all(f"There is no {tmp_path / name}." in shown for name in names)
    assert set(pending) == {planned.name for planned in stages} - {"adopt/done"}
    assert "0 stages finished in" in shown, "adopt/done had finished before"


def test_a_data_folder_that_takes_no_files_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
):
    assert harness("run", "tiny.yaml", "--data-dir", "/proc/betons") == 2
    assert "/proc/betons" in capsys.readouterr().err
    assert not list(Path("runs").glob("stages/*/*"))


def test_cancel_without_a_running_stage(capsys: pytest.CaptureFixture[str]):
    assert harness("cancel", "tiny.yaml") == 0
    assert capsys.readouterr().out.startswith("No stage of tiny is running.")


def test_a_cancel_request_affects_only_earlier_runs(tmp_path: Path):
    early = Watch(file_of(tmp_path, "tiny"))
    assert not early()
    time.sleep(0.05)
    request(tmp_path, "tiny")
    time.sleep(0.05)
    late = Watch(file_of(tmp_path, "tiny"))
    early.polled_at = 0.0
    assert early() and not late()


def test_logs_by_key_by_name_and_by_near_name(capsys: pytest.CaptureFixture[str]):
    folder = stage("pretrain", "abc123", name="pretrain/all/eps0/seed0")
    (folder / "error.txt").write_text("There is no such image.\n")
    assert harness("logs", "abc1") == 0
    shown = capsys.readouterr()
    assert shown.out == "one\ntwo\nthree\n" and shown.err == "There is no such image.\n"
    assert harness("logs", "pretrain/all/eps0/seed0", "--lines", "1") == 0
    assert capsys.readouterr().out == "three\n"
    assert harness("logs", "pretrain/all/eps0/seed0", "--follow") == 0, (
        "a finished stage prints nothing more"
    )
    assert harness("logs", "pretrain/all/eps0/seed1") == 2
    assert "Did you mean pretrain/all/eps0/seed0?" in capsys.readouterr().err
    other = stage("pretrain", "abc999")
    (other / "stage.json").write_text(
        json.dumps({"name": "pretrain/all/eps0/seed0", "recipe": "recipes/my-own-0123abc.json"})
    )
    assert harness("logs", "abc") == 2
    capsys.readouterr()
    assert harness("logs", "pretrain/all/eps0/seed0") == 2
    shown = capsys.readouterr().err
    assert "abc123" in shown and "abc999 (my-own)" in shown


def test_many_stages_that_match_are_not_all_listed(capsys: pytest.CaptureFixture[str]):
    for number in range(20):
        stage("pretrain", f"abc{number:02}")
    assert harness("logs", "abc") == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert first == "20 stages match abc." and hint.endswith(", and 12 more")
    assert hint.count("abc") == 8
    assert harness("logs", "") == 2
    assert "harness plan RECIPE --stages" in capsys.readouterr().err


def test_an_empty_log_is_named_as_such(capsys: pytest.CaptureFixture[str]):
    folder = stage("pretrain", "abc123")
    (folder / "log.txt").write_text("")
    assert harness("logs", "abc1") == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "The log is empty.\n"
    (folder / "epochs.json").write_text("[]")
    assert harness("logs", "abc1") == 0
    assert capsys.readouterr().err == (
        "The log is empty. Loss and accuracy of each epoch: "
        f"{(folder / 'epochs.json').absolute()}\n"
    )
    assert harness("logs", "abc1", "-q") == 0
    assert capsys.readouterr().err == ""


def test_no_escape_sequence_of_a_log_or_an_error_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str],
):
    folder = stage("pretrain", "abc1", result=False)
    hostile = b"\x1b]0;owned\x07 \x1b[2J \x9b31m \xff \xe2\x80\xae \x08\x1b[31mred\x1b[0m\r50%\n"
    (folder / "log.txt").write_bytes(hostile)
    (folder / "error.txt").write_bytes(b"Traceback\n" + hostile)
    for more in ((), ("--follow",), ("--lines", "1")):
        assert harness("logs", "abc1", *more) == 0
        ended = capsys.readouterr()
        assert ended.out and all(line.isprintable() for line in (ended.out + ended.err).split("\n"))
        assert "50%" in ended.out and "owned" in ended.err
    assert harness("logs", "abc1", "--json") == 0
    assert "owned" in json.loads(capsys.readouterr().out)["error"]


def test_logs_follow_a_stage_that_has_not_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("harness.cli.commands.logs.POLL_EVERY_S", 0.02)
    folder = stage("pretrain", "abc123", result=False)
    (folder / "log.txt").unlink()

    def work() -> None:
        time.sleep(0.2)
        with lease.hold(folder), (folder / "log.txt").open("w", buffering=1) as log:
            log.write("one\n")
            time.sleep(0.2)
            log.write("two\n")
        (folder / "result.json").write_text("{}")

    worker = threading.Thread(target=work)
    worker.start()
    assert harness("logs", "abc123", "--follow") == 0 and capsys.readouterr().out == "one\ntwo\n"
    worker.join()

    queued = stage("pretrain", "def456", result=False)
    worker = threading.Timer(0.2, (queued / "error.txt").write_text, ["No.\n"])
    worker.start()
    assert harness("logs", "def456", "--follow") == 0 and capsys.readouterr().err == "No.\n"


def test_gc_lists_sizes_and_deletes_after_confirmation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    done, left = stage("pretrain", "aaa"), stage("pretrain", "bbb", result=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert harness("gc", "--all") == 130
    assert "2.0 MB" in capsys.readouterr().out and (done / "checkpoints").exists()
    assert harness("gc", "--all", "--yes") == 0
    assert not (done / "checkpoints").exists() and (done / "result.json").exists()
    assert (left / "checkpoints").exists(), "an unfinished stage resumes from its checkpoints"
    assert harness("gc", "tiny.yaml") == 0 and "Nothing to delete" in capsys.readouterr().out


def test_gc_deletes_temporary_files_of_killed_writes(capsys: pytest.CaptureFixture[str]):
    done, left, runs = (
        stage("pretrain", "aaa"),
        stage("pretrain", "bbb", result=False),
        stage("features", "ccc", result=False),
    )
    for place in (done, done / "checkpoints", left, left / "checkpoints", runs):
        for name in ("model.pt", "train.npz", "result.json"):
            with tempfile.NamedTemporaryFile(
                dir=place, prefix=f".{name}.", delete=False
            ) as file:  # named as by an atomic write that was killed
                file.write(bytes(1000))
    kept = {path for path in runs.rglob("*")} | {
        left / "log.txt",
        left / "stage.json",
        left / "checkpoints" / "000000001.pt",
    }
    with lease.hold(runs):
        assert harness("gc", "--all", "--yes") == 0
        stdout = capsys.readouterr().out
    assert stdout.count("(temporary)") == 9 and "in 10 entries" in stdout, (
        "checkpoints of a finished stage are one entry, with their temporary files"
    )
    assert all(path.exists() for path in kept)
    assert not list(left.rglob(".*"))
    assert not list(done.rglob(".*"))
    (left / "checkpoints" / ".000000002.pt.abcd_123").touch()
    assert harness("gc", "tiny.yaml", "--all", "--unused", "--yes") == 0 and not left.exists()


def test_gc_unused_deletes_stages_that_no_given_recipe_has(capsys: pytest.CaptureFixture[str]):
    key = next(
        planned.key for planned in expand(read("tiny.yaml")).stages if planned.kind == "write"
    )
    wanted, old, runs = stage("write", key), stage("write", "0ld"), stage("write", "runs")
    betons = Path("data/things-all-0ld")
    betons.mkdir(parents=True)
    (betons / "train.beton").write_bytes(b"1")
    assert harness("gc", "--unused", "--yes") == 2
    with lease.hold(runs):
        assert harness("gc", "tiny.yaml", "--unused", "--yes") == 0
    assert not old.exists() and not betons.exists() and wanted.exists() and runs.exists()


def test_gc_keeps_stages_run_with_set_if_it_is_repeated(capsys: pytest.CaptureFixture[str]):
    Path("other.yaml").write_text(RECIPE.replace("tiny", "other").replace("resnet10", "resnet18"))

    def keys(name: str, *overrides: str) -> list[str]:
        return [
            planned.key
            for planned in expand(read(name, overrides)).stages
            if planned.kind == "pretrain"
        ]

    as_written = stage("pretrain", keys("tiny.yaml")[0])
    with_set = [
        stage("pretrain", keys(name, "seeds=[7]")[0]) for name in ("tiny.yaml", "other.yaml")
    ]
    line = ["gc", "tiny.yaml", "other.yaml", "--unused", "--yes"]
    assert harness(*line, "--set", "seeds=[7]") == 0
    assert as_written.exists() and all(folder.exists() for folder in with_set)
    assert harness(*line) == 0
    assert as_written.exists() and not any(folder.exists() for folder in with_set)
    capsys.readouterr()
    for mistake, words in (
        (["gc", "--all", "--set", "seeds=[7]"], "no effect"),
        ([*line, "--set", "seed=7"], "seeds"),
    ):
        assert harness(*mistake) == 2 and words in capsys.readouterr().err


def test_gc_counts_the_bytes_of_a_beton_only_if_it_deletes_its_last_hard_link(
    capsys: pytest.CaptureFixture[str],
):
    data = Path("data")
    for key in ("0ld", "0lder"):
        stage("write", key, result=False)
        (data / f"things-all-{key}").mkdir(parents=True)
    (data / "things-all").mkdir()
    first = data / "things-all" / "train.beton"
    first.write_bytes(bytes(5_000_000))
    for key in ("0ld", "0lder"):
        os.link(first, data / f"things-all-{key}" / "train.beton")
    assert harness("gc", "tiny.yaml", "--unused", "--yes") == 0
    # 4 MB are the checkpoints of two stages; the `.beton` file still has a link.
    assert "Deleted 4.0 MB" in capsys.readouterr().out and first.stat().st_nlink == 1
    for key in ("0ld", "0lder"):
        stage("write", key, result=False)
        (data / f"things-all-{key}").mkdir(parents=True)
        os.link(first, data / f"things-all-{key}" / "train.beton")
    first.unlink()
    assert harness("gc", "tiny.yaml", "--unused", "--yes") == 0
    assert "Deleted 9.0 MB" in capsys.readouterr().out


def test_a_report_is_rewritten_only_after_a_change(monkeypatch: pytest.MonkeyPatch):
    from harness.cli.commands import report, run

    folders = Folders(Path("data"), Path("raw"), Path("runs"))
    plan, written = expand(read("tiny.yaml")), []

    def write_report(*_: object) -> Path:
        page = Path("runs/reports/tiny/index.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
        written.append(page)
        return page

    monkeypatch.setattr(report, "write_report", write_report)
    assert run._report(plan, folders) == run._report(plan, folders) and len(written) == 1
    folder = plan.stages[0].folder(folders.runs)
    folder.mkdir(parents=True)
    for change in (
        lambda: (folder / "error.txt").touch(),
        lambda: (folder / "result.json").touch(),
        lambda: os.utime(folder / "result.json", (1, 1)),
        lambda: written[0].unlink(),
    ):
        before = len(written)
        change()
        run._report(plan, folders)
        run._report(plan, folders)
        assert len(written) == before + 1
    run._report(expand(read("tiny.yaml", ["seeds=[1]"])), folders)
    assert len(written) == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--launcher", "slurn"), "slurm"),
        (("--tracker", "tensorbord"), "tensorboard"),
        (("--tracker", "wandb"), "pip install 'harness[wandb]'"),
    ],
)
def test_a_wrong_option_is_reported_before_anything_is_planned(
    option: tuple[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert harness("run", "tiny.yaml", *option) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists() and not Path("data").exists()


def test_only_the_local_launcher_starts_a_fork_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(self: fork_server.ForkServer) -> None:
        raise AssertionError("a fork server imports torch")

    monkeypatch.setattr(fork_server.ForkServer, "__init__", fail)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert harness("run", "tiny.yaml", "--launcher", "slurm") == 2
    assert "submitit" in capsys.readouterr().err


def test_the_fix_of_failed_stages_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(run: Run, _: object) -> None:
        run.failed = dict.fromkeys(list(run.pending)[:2], "There are no weights.")
        for key in run.failed:
            folder = run.pending[key].folder(run.folders.runs)
            folder.mkdir(parents=True)
            (folder / "error.txt").write_text("There are no weights.\nPut a.pth into \x1b[1mraw.\n")

    monkeypatch.setattr("harness.cli.live_table.follow", fail)
    kept = signal.getsignal(signal.SIGTERM)
    try:
        assert harness("run", "tiny.yaml") == 1
    finally:
        signal.signal(signal.SIGTERM, kept)
    stderr = capsys.readouterr().err
    assert stderr.count("There are no weights.") == 2
    assert stderr.count("    Put a.pth into ") == 1 and "\x1b" not in stderr


def test_a_traceback_has_no_fix(tmp_path: Path):
    assert stage_state.error_hint(tmp_path) == ""
    (tmp_path / "error.txt").write_text("Traceback (most recent call last):\n  1 / 0\nZeroDiv\n")
    assert stage_state.error_hint(tmp_path) == ""
    (tmp_path / "error.txt").write_text("")
    assert stage_state.error_hint(tmp_path) == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "Stopping: no stage runs."),
        (1, "1 running stage has 20 s to save its state. Press Ctrl-C again to kill it."),
        (2, "2 running stages have 20 s to save their state. Press Ctrl-C again to kill them."),
    ],
)
def test_the_message_after_ctrl_c_agrees_in_number(number: int, text: str):
    assert _stopping(number).endswith(text)


def test_logs_of_a_recipe_point_to_its_stages(capsys: pytest.CaptureFixture[str]):
    stage("pretrain", "abc123", name="pretrain/all/eps0/seed0")
    for recipe in ("demo", "tiny.yaml"):
        assert harness("logs", recipe) == 2
        first, hint = capsys.readouterr().err.splitlines()
        assert first == f"{recipe} is a recipe, not a stage."
        assert hint == f"List its stages: harness plan {recipe} --stages"
