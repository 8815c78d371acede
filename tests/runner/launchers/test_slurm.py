"""The slurm launcher: with submitit's local executor anywhere, and on a real one-node Slurm where one can be started."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import lease, result
from harness.runner.executor import Run, prepare
from harness.runner.launcher import Finished, LauncherSettings
from harness.runner.launchers import slurm
from harness.runner.retry import Policy
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers.errors import UserError

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(autouse=True)
def _workers_find_the_fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


@pytest.fixture(scope="session")
def real_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """slurmctld and slurmd of our own on this machine; ended afterwards."""
    if os.geteuid() != 0 or not all(
        shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")
    ):
        pytest.skip("a Slurm of our own wants root and Debian's slurm-wlm and munge")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    daemons = []
    with pytest.MonkeyPatch.context() as patch:
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=folder))
        patch.setenv("SLURM_CONF", str(conf))
        try:
            if subprocess.run(["munge", "-n"], capture_output=True).returncode != 0:
                daemons.append(_start_munge())
            daemons += [
                subprocess.Popen(
                    ["slurmctld", "-D"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                ),
                subprocess.Popen(
                    ["slurmd", "-D"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                ),
            ]
            deadline = time.monotonic() + 30
            while (
                "idle"
                not in subprocess.run(
                    ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True
                ).stdout
            ):
                if time.monotonic() > deadline:
                    pytest.skip("slurmctld and slurmd do not come up on this machine")
                time.sleep(0.5)
            yield
            subprocess.run(["scancel", "--me"], capture_output=True)
            deadline = time.monotonic() + 15
            while (
                subprocess.run(["squeue", "-h"], capture_output=True).stdout
                and time.monotonic() < deadline
            ):
                time.sleep(0.2)  # steps that outlive slurmctld wait for it for ever
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(10)


def _start_munge() -> "subprocess.Popen[bytes]":
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    return subprocess.Popen(
        ["munged", "--foreground"], user="munge", group="munge", stderr=subprocess.DEVNULL
    )


def make(tmp_path: Path, name: str, *needs: Stage, **config: Any) -> Stage:
    return Stage(
        "rank",
        {"name": name, "journal": str(tmp_path / "journal.txt"), **config},
        {f"need_{index}": need for index, need in enumerate(needs)},
        {},
        f"rank/{name}",
    )


def run_all(
    settings: LauncherSettings,
    stages: tuple[Stage, ...],
    meanwhile: Callable[[Any], None] = lambda _: None,
) -> Run:
    with slurm.open(settings) as launcher:
        run = Run(Matrix(None, stages), settings.folders, launcher, Policy(first_wait_s=0.1))  # type: ignore[arg-type]
        for _ in run.events():
            meanwhile(launcher)
    return run


def journal(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "journal.txt").read_text().split())


def test_stages_run_as_jobs_with_submitits_local_executor(folders: Folders, tmp_path: Path):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    first, broken = make(tmp_path, "first"), make(tmp_path, "broken", mistake=True)
    last = make(tmp_path, "last", first)
    settings = LauncherSettings(
        folders, 2, "cpu", "tests.helpers.fake_stages", num_threads=1, options={"cluster": "local"}
    )
    run = run_all(settings, (first, broken, last))
    assert list(run.failed.values()) == ["There is no such image."]
    assert result.load(last.folder(folders.runs)).metrics["value"] == 2
    assert journal(tmp_path) == ["broken", "first", "last"]


def test_stop_lets_a_job_save(folders: Folders, tmp_path: Path):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    stage = make(tmp_path, "sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    settings = LauncherSettings(
        folders, 2, "cpu", "tests.helpers.fake_stages", num_threads=1, options={"cluster": "local"}
    )
    with slurm.open(settings) as launcher:
        run = Run(Matrix(None, (stage,)), folders, launcher)  # type: ignore[arg-type]
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(20)
        assert not run.running
    assert (
        (folder / "steps.txt").exists()
        and not lease.is_held(folder)
        and not (folder / "error.txt").exists()
    )


def test_an_array_on_a_real_slurm_one_of_whose_jobs_is_killed_and_one_queued_again(
    real_slurm: None, folders: Folders, tmp_path: Path
):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    killed, requeued = make(tmp_path, "killed", sleep_s=4), make(tmp_path, "requeued", sleep_s=4)
    last = make(tmp_path, "last", killed, requeued)
    done: dict[str, str] = {}  # name -> its job

    def meanwhile(launcher: Any) -> None:
        for stage, command in ((killed, ["scancel"]), (requeued, ["scancel", "--signal=USR2"])):
            folder, name = stage.folder(folders.runs), stage.name
            if name not in done and folder in launcher.jobs and (folder / "progress.json").exists():
                job_id = launcher.jobs[folder].job_id
                assert "_" in job_id, "both were submitted as one array"
                assert subprocess.run([*command, job_id]).returncode == 0
                done[name] = job_id
        if requeued.name in done and not (requeued.folder(folders.runs) / "result.json").exists():
            # Slurm keeps a requeued job back for two minutes, so that its node can clean up.
            subprocess.run(
                ["scontrol", "update", f"JobId={done[requeued.name]}", "StartTime=now"],
                capture_output=True,
            )

    settings = LauncherSettings(
        folders, 2, "cpu", "tests.helpers.fake_stages", num_threads=1, options={"time": "5"}
    )
    run = run_all(settings, (killed, requeued, last), meanwhile)
    assert len(done) == 2 and not run.failed
    assert result.load(last.folder(folders.runs)).metrics["value"] == 3
    assert result.load(requeued.folder(folders.runs)).metrics["resumed_at"] > 0
    assert journal(tmp_path).count("last") == 1


@pytest.fixture
def told_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands named as Slurm's, which take jobs and never run them. A file `refuse` there makes sbatch and squeue
    fail, a file `interrupt` has sbatch interrupt whoever called it; `names` and `cancelled` hold what they were told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = """grep -o 'job-name=.*' $1 >> {here}/names
                if [ -e {here}/refuse ]; then echo 'sbatch: error: invalid partition' >&2; exit 1; fi
                if [ -e {here}/interrupt ]; then kill -INT $PPID; fi
                echo "Submitted batch job $(wc -l < {here}/names)" """
    for name, script in {
        "sbatch": sbatch,
        "squeue": "[ ! -e {here}/refuse ]",
        "scancel": "echo $@ >> {here}/cancelled",
        "srun": "exit 1",
    }.items():
        (folder / name).write_text("#!/bin/sh\n" + script.format(here=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_what_slurm_refuses_at_first_is_a_mistake_and_later_waits(
    folders: Folders, tmp_path: Path, told_slurm: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    first, second = (make(tmp_path, name).folder(folders.runs) for name in ("first", "second"))
    settings = LauncherSettings(folders, 2, "cpu", "tests.helpers.fake_stages")
    (told_slurm / "refuse").touch()
    with (
        slurm.open(settings) as launcher,
        pytest.raises(UserError, match="no job: sbatch: error: invalid partition"),
    ):
        launcher.start(make(tmp_path, "first"), first)
        launcher.wait(0)
    (told_slurm / "refuse").unlink()
    with slurm.open(settings) as launcher:
        launcher.start(make(tmp_path, "first"), first)
        launcher.wait(0)
        (told_slurm / "refuse").touch()
        launcher.start(make(tmp_path, "second"), second)
        asked = len((told_slurm / "names").read_text().splitlines())
        assert (
            launcher.wait(0) == launcher.wait(0) == []
            and list(launcher.jobs) == [first]
            and launcher.to_submit == [second]
        )
        assert len((told_slurm / "names").read_text().splitlines()) == asked + 1, (
            "not again at once"
        )
        assert launcher.stop(0.0) == [Finished(second, "stopped")], (
            "a queue that cannot be seen is not an empty one"
        )
        assert list(launcher.jobs) == [first]
        (told_slurm / "refuse").unlink()
        monkeypatch.setattr(launcher, "submit_at", 0.0)
        launcher.start(make(tmp_path, "second"), second)
        launcher.wait(0)
        assert list(launcher.jobs) == [first, second] and not launcher.to_submit


def test_what_was_submitted_when_an_interruption_came_is_cancelled(
    folders: Folders, tmp_path: Path, told_slurm: Path
):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    stage = make(tmp_path, "some")
    (told_slurm / "interrupt").touch()
    with slurm.open(
        LauncherSettings(
            folders, 2, "cpu", "tests.helpers.fake_stages", options={"job_name": "mine"}
        )
    ) as launcher:
        launcher.start(stage, stage.folder(folders.runs))
        with pytest.raises(KeyboardInterrupt):
            launcher.wait(1)
        assert not launcher.jobs and launcher.stop(1) == [
            Finished(stage.folder(folders.runs), "stopped")
        ]
    (name,) = (told_slurm / "names").read_text().splitlines()
    assert (
        name.startswith("job-name=mine-")
        and (told_slurm / "cancelled").read_text() == f"--name={name[9:]}\n"
    )


def test_jobs_that_nobody_knows_are_cancelled_by_a_real_slurm(
    real_slurm: None, folders: Folders, tmp_path: Path
):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    stages = [make(tmp_path, name, sleep_s=60) for name in ("one", "two")]
    with slurm.open(
        LauncherSettings(folders, 2, "cpu", "tests.helpers.fake_stages", num_threads=1)
    ) as launcher:
        for stage in stages:
            prepare(stage, stage.folder(folders.runs))
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher._queue() & {job.job_id for job in launcher.jobs.values()}) == 2
        launcher.jobs.clear()
        launcher.is_submitting = True
    deadline = time.monotonic() + 15
    while launcher._queue() != set():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(("option", "value"), [("gres", "gpu:1"), ("gpus_per_node", "1")])
def test_a_gpu_that_no_stage_would_use_is_refused(folders: Folders, option: str, value: str):
    with pytest.raises(UserError, match=f"--slurm {option} has no effect without --device cuda"):
        slurm.open(LauncherSettings(folders, options={option: value}))


def test_on_which_device_stages_run_is_said(
    folders: Folders, told_slurm: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    slurm.open(LauncherSettings(folders))
    assert "Stages run on CPUs" in capsys.readouterr().err
    asked = [
        slurm.open(LauncherSettings(folders, device="cuda", options=options)).executor.parameters
        for options in ({}, {"gres": "gpu:1"})
    ]
    assert (
        asked[0]["gpus_per_node"] == 1
        and asked[1]["gres"] == "gpu:1"
        and "gpus_per_node" not in asked[1]
    )
    assert not capsys.readouterr().err


def test_what_is_missing_is_said(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="Slurm: "):
        slurm.open(LauncherSettings(folders))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        slurm.open(LauncherSettings(folders))
