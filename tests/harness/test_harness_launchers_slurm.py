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

from harness import lease, result
from harness.executor import Run
from harness.folders import Folders
from harness.launcher import LauncherSettings
from harness.launchers import slurm
from harness.matrix import Matrix
from harness.retry import Policy
from harness.stage import Stage
from writers.errors import UserError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
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
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{HERE}")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


@pytest.fixture(scope="session")
def real_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """slurmctld and slurmd of our own on this machine; ended afterwards."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
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
            daemons += [subprocess.Popen(["slurmctld", "-D"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL),
                        subprocess.Popen(["slurmd", "-D"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)]
            deadline = time.monotonic() + 30
            while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
                if time.monotonic() > deadline:
                    pytest.skip("slurmctld and slurmd do not come up on this machine")
                time.sleep(0.5)
            yield
            subprocess.run(["scancel", "--me"], capture_output=True)
            deadline = time.monotonic() + 15
            while subprocess.run(["squeue", "-h"], capture_output=True).stdout and time.monotonic() < deadline:
                time.sleep(0.2)     # steps that outlive slurmctld wait for it for ever
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
    return subprocess.Popen(["munged", "--foreground"], user="munge", group="munge", stderr=subprocess.DEVNULL)


def make(tmp_path: Path, name: str, *needs: Stage, **config: Any) -> Stage:
    return Stage("rank", {"name": name, "journal": str(tmp_path / "journal.txt"), **config},
                 {f"need_{index}": need for index, need in enumerate(needs)}, {}, f"rank/{name}")


def run_all(settings: LauncherSettings, stages: tuple[Stage, ...], meanwhile: Callable[[Any], None] = lambda _: None) -> Run:
    with slurm.open(settings) as launcher:
        run = Run(Matrix(None, stages), settings.folders, launcher, Policy(first_wait_s=0.1))  # type: ignore[arg-type]
        for _ in run.events():
            meanwhile(launcher)
    return run


def journal(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "journal.txt").read_text().split())


def test_stages_run_as_jobs_with_submitits_local_executor(folders: Folders, tmp_path: Path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'harness[slurm]'")
    first, broken = make(tmp_path, "first"), make(tmp_path, "broken", mistake=True)
    last = make(tmp_path, "last", first)
    settings = LauncherSettings(folders, 2, "cpu", "fake_stages", num_threads=1, options={"cluster": "local"})
    run = run_all(settings, (first, broken, last))
    assert list(run.failed.values()) == ["There is no such image."]
    assert result.load(last.folder(folders.runs)).metrics["value"] == 2
    assert journal(tmp_path) == ["broken", "first", "last"]


def test_stop_lets_a_job_save(folders: Folders, tmp_path: Path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'harness[slurm]'")
    stage = make(tmp_path, "sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    settings = LauncherSettings(folders, 2, "cpu", "fake_stages", num_threads=1, options={"cluster": "local"})
    with slurm.open(settings) as launcher:
        run = Run(Matrix(None, (stage,)), folders, launcher)  # type: ignore[arg-type]
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(20)
        assert not run.running
    assert (folder / "steps.txt").exists() and not lease.is_held(folder) and not (folder / "error.txt").exists()


def test_an_array_on_a_real_slurm_one_of_whose_jobs_is_killed_and_one_queued_again(real_slurm: None, folders: Folders,
                                                                                   tmp_path: Path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'harness[slurm]'")
    killed, requeued = make(tmp_path, "killed", sleep_s=4), make(tmp_path, "requeued", sleep_s=4)
    last = make(tmp_path, "last", killed, requeued)
    done: dict[str, str] = {}       # name -> its job

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
            subprocess.run(["scontrol", "update", f"JobId={done[requeued.name]}", "StartTime=now"], capture_output=True)

    settings = LauncherSettings(folders, 2, "cpu", "fake_stages", num_threads=1, options={"time": "5"})
    run = run_all(settings, (killed, requeued, last), meanwhile)
    assert len(done) == 2 and not run.failed
    assert result.load(last.folder(folders.runs)).metrics["value"] == 3
    assert result.load(requeued.folder(folders.runs)).metrics["resumed_at"] > 0
    assert journal(tmp_path).count("last") == 1


def test_what_is_missing_is_said(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'harness[slurm]'")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="Slurm: "):
        slurm.open(LauncherSettings(folders))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        slurm.open(LauncherSettings(folders))
