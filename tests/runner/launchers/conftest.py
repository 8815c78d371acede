"""Fixtures of the launchers' tests: a Slurm of one node, and a skip if submitit is missing."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.execution import wait_for

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
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
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


@pytest.fixture
def needs_submitit() -> None:
    """Skip the test if submitit is not installed."""
    pytest.importorskip(
        "submitit", reason="submitit is not installed: pip install 'harness[slurm]'"
    )


@pytest.fixture(scope="session")
def real_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start slurmctld and slurmd on this machine for the session."""
    if os.geteuid() != 0 or not all(
        shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")
    ):
        pytest.skip("starting Slurm requires root and Debian's slurm-wlm and munge")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    daemons = []
    with pytest.MonkeyPatch.context() as patch:
        conf = folder / "slurm.conf"
        host = socket.gethostname().split(".")[0]
        conf.write_text(CONF.format(host=host, folder=folder, ports=_free_ports(2)))
        patch.setenv("SLURM_CONF", str(conf))
        try:
            daemons.append(_start_munge(folder))
            for name in ("slurmctld", "slurmd"):
                daemons.append(
                    subprocess.Popen(
                        [name, "-D"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                    )
                )
            deadline = time.monotonic() + 30
            while (
                "idle"
                not in subprocess.run(
                    ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True
                ).stdout
            ):
                if time.monotonic() > deadline:
                    pytest.skip("slurmctld and slurmd do not start on this machine")
                time.sleep(0.5)
            yield
            subprocess.run(["scancel", "--me"], capture_output=True)
            deadline = time.monotonic() + 15
            while (
                subprocess.run(["squeue", "-h"], capture_output=True).stdout
                and time.monotonic() < deadline
            ):
                time.sleep(0.2)  # otherwise job steps would wait for slurmctld forever
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(240)


def _free_ports(num: int) -> list[int]:
    """Return ports that are free now: another test session may run a Slurm, too."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(num)]
        return [server.getsockname()[1] for server in sockets]


def _start_munge(folder: Path) -> "subprocess.Popen[bytes]":
    """Start munged, Slurm's authentication daemon, with a new key and a socket in `folder`."""
    key, munge_socket = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = {"key-file": key, "socket": munge_socket} | {
        f"{name}-file": folder / f"munge.{name}" for name in ("pid", "log", "seed")
    }
    process = subprocess.Popen(
        [
            "munged",
            "--foreground",
            "--force",
            *(f"--{key}={file}" for key, file in options.items()),
        ],
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: munge_socket.exists() or process.poll() is not None)
    return process
