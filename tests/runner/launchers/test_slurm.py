"""Slurm launcher, with submitit's local executor and on a real Slurm of one node.

The real one is started if Debian's slurm-wlm and munge are installed; otherwise its tests are
skipped.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.stage import Stage
from harness.runner import queue_state, result
from harness.runner.executor import Run, prepare
from harness.runner.launcher import Finished, LauncherSettings, parse_options
from harness.runner.launchers import _slurm_commands, slurm
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers.execution import FAKE_STAGES, load_result, matrix_of, settings_for, wait_for
from writers import lease
from writers.errors import UserError

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
                time.sleep(0.2)  # steps that outlive slurmctld wait for it forever
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(10)


def _free_ports(num: int) -> list[int]:
    """Return ports that are free now; another session may run its own Slurm."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(num)]
        return [server.getsockname()[1] for server in sockets]


def _start_munge(folder: Path) -> "subprocess.Popen[bytes]":
    """Start munged with a key and a socket of its own."""
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


def run_all(
    settings: LauncherSettings,
    options: slurm.Options,
    stages: tuple[Stage, ...],
    observe: Callable[[slurm.SlurmLauncher], None] = lambda _: None,
) -> Run:
    """Run the stages to the end; `observe` is called after each event."""
    with slurm.open(settings, options) as launcher:
        policy = RetryPolicy(first_wait_s=0.1)
        run = Run(matrix_of(*stages), settings.folders, launcher, policy)
        for _ in run.events():
            observe(launcher)
    return run


@pytest.mark.usefixtures("needs_submitit")
def test_stages_run_as_jobs_with_submitits_local_executor(folders, make, journal):
    first, broken = make("first"), make("broken", mistake=True)
    last = make("last", first)
    settings = settings_for(folders, 2, num_threads=1)
    run = run_all(settings, slurm.Options(cluster="local"), (first, broken, last))
    assert list(run.failed.values()) == ["There is no such image."]
    assert load_result(last, folders).metrics["value"] == 2
    assert sorted(journal()) == ["broken", "first", "last"]


@pytest.mark.usefixtures("needs_submitit")
def test_stop_lets_a_job_save(folders, make):
    stage = make("sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    settings = settings_for(folders, 2, num_threads=1)
    with slurm.open(settings, slurm.Options(cluster="local")) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(20)
        assert not run.running
    assert (folder / "steps.txt").exists() and not (folder / "error.txt").exists()
    assert not lease.is_held(folder)


def pids_of(job_id: str) -> list[int]:
    """Processes of a job, or of a task of an array."""
    array, _, task = job_id.partition("_")
    variables = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    if not task:
        variables = {f"SLURM_JOB_ID={array}".encode()}
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variables <= set(environ.read_bytes().split(b"\0")):
                found.append(int(environ.parent.name))
    return found


def command_of(pid: int) -> bytes:
    """Command line of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def kill_processes_of(job_id: str) -> None:
    """Kill all processes of an array's task, as the out-of-memory killer might."""
    for pid in pids_of(job_id):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_killed_and_preempted_jobs_of_an_array_are_retried(folders, make, journal):
    killed, requeued = make("killed", sleep_s=4), make("requeued", sleep_s=4)
    last = make("last", killed, requeued)
    job_ids: dict[str, str] = {}  # name of the stage -> its job, once it was signaled

    def observe(launcher: slurm.SlurmLauncher) -> None:
        for stage, is_killed in ((killed, True), (requeued, False)):
            folder = stage.folder(folders.runs)
            is_running = folder in launcher.jobs and (folder / "progress.json").exists()
            if stage.name not in job_ids and is_running:
                job_id = launcher.jobs[folder].job_id
                assert "_" in job_id, "both were submitted as one array"
                job_ids[stage.name] = job_id
                if is_killed:
                    kill_processes_of(job_id)
                else:
                    subprocess.run(["scancel", "--signal=USR2", job_id], check=True)
        if requeued.name in job_ids and not result.load(requeued.folder(folders.runs)):
            # Slurm delays a requeued job for two minutes, so that its node can clean up.
            job_id = job_ids[requeued.name]
            subprocess.run(
                ["scontrol", "update", f"JobId={job_id}", "StartTime=now"], capture_output=True
            )

    settings = settings_for(folders, 2, num_threads=1)
    run = run_all(settings, slurm.Options(time=5), (killed, requeued, last), observe)
    assert len(job_ids) == 2 and not run.failed
    assert load_result(killed, folders).retries == {"lost": 1}
    assert load_result(last, folders).metrics["value"] == 3
    assert load_result(requeued, folders).metrics["resumed_at"] > 0
    assert journal().count("last") == 1


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_a_preempted_stage_is_retried(folders, make, journal, tmp_path):
    """A job of a partition with priority takes its CPUs. Slurm sends SIGTERM, as scancel does."""
    stage = make("preempted", sleep_s=4)
    urgent: list[str] = []

    def observe(launcher: slurm.SlurmLauncher) -> None:
        if (stage.folder(folders.runs) / "progress.json").exists() and not urgent:
            command = ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--wrap=sleep 3"]
            urgent.append(f"--output={tmp_path / 'urgent.txt'}")
            subprocess.run([*command, *urgent], check=True, capture_output=True)

    run = run_all(settings_for(folders, 2, num_threads=2), slurm.Options(), (stage,), observe)
    assert not run.failed and urgent
    assert load_result(stage, folders).retries == {"preempted": 1}
    assert load_result(stage, folders).metrics["resumed_at"] > 0
    assert journal() == ["preempted"] * 2


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_scancel_fails_a_stage_and_does_not_retry_it(folders, make, journal):
    """One job is cancelled while it runs, another while it is pending."""
    running, pending = make("running", sleep_s=60), make("pending", sleep_s=60)
    cancelled: set[str] = set()

    def observe(launcher: slurm.SlurmLauncher) -> None:
        folder = running.folder(folders.runs)
        if (folder / "progress.json").exists() and not cancelled:
            cancelled.update(job.job_id for job in launcher.jobs.values())
            assert len(cancelled) == 2
            subprocess.run(["scancel", *cancelled], check=True)

    settings = settings_for(folders, 2, num_threads=2)  # each job needs both CPUs
    run = run_all(settings, slurm.Options(), (running, pending), observe)
    assert set(run.failed) == {running.key, pending.key}
    assert all("was cancelled with scancel" in message for message in run.failed.values())
    assert journal() == ["running"]
    for stage in (running, pending):
        error = (stage.folder(folders.runs) / "error.txt").read_text()
        assert "was cancelled with scancel" in error


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_stop_saves_running_jobs_and_cancels_pending_ones(folders, make, journal):
    stages = [make(f"sleeper{index}", sleep_s=60) for index in range(slurm.MAX_JOBS)]
    is_running = lambda stage: (stage.folder(folders.runs) / "progress.json").exists()  # noqa: E731
    with slurm.open(settings_for(folders, None, num_threads=1)) as launcher:
        run = Run(matrix_of(*stages), folders, launcher)
        for _ in run.events():
            notes = [queue_state.read(stage.folder(folders.runs)) for stage in stages]
            if sum(map(is_running, stages)) == 2 and any("PENDING (" in note for note in notes):
                break
        assert len(launcher.jobs) == slurm.MAX_JOBS
        run.stop(20)
        assert not run.running and not launcher.jobs
    assert len(journal()) == 2
    for stage in filter(is_running, stages):
        assert (stage.folder(folders.runs) / "steps.txt").exists()
    assert not any(queue_state.read(stage.folder(folders.runs)) for stage in stages)
    wait_for(lambda: launcher._queue() == {})


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_a_job_requeued_after_its_result_ends_with_the_run(folders, make):
    """A preempted job answers "stopped", and Slurm queues it again although nobody waits for it."""
    stage = make("requeued", sleep_s=60)
    folder = stage.folder(folders.runs)
    with slurm.open(settings_for(folders, 2, num_threads=1)) as launcher:
        prepare(stage, folder)
        launcher.start(stage, folder)
        launcher.wait(0)
        wait_for(lambda: (folder / "progress.json").exists())
        job = launcher.jobs.pop(folder)
        subprocess.run(["scontrol", "requeue", job.job_id], check=True)
        wait_for(lambda: "PENDING" in {queued.state for queued in launcher._queue().values()})
        assert launcher.stop(1.0) == []
    wait_for(lambda: launcher._queue() == {})


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_two_processes_of_a_stage_save_and_resume(folders, make):
    """Before preemption, Slurm sends SIGUSR2 to all processes of the job, torchrun included."""
    shared, alone = make("shared", kind="evaluate", sleep_s=4), make("alone")
    signaled: list[str] = []

    def observe(launcher: slurm.SlurmLauncher) -> None:
        folder = shared.folder(folders.runs)
        if (folder / "progress.json").exists() and not signaled:
            signaled.append(launcher.jobs[folder].job_id)
            for pid in pids_of(signaled[0]):
                if b"torch.distributed.run" in command_of(pid):
                    os.kill(pid, signal.SIGUSR2)
            subprocess.run(["scancel", "--signal=USR2", signaled[0]], check=True)
        if signaled and not result.load(folder):
            subprocess.run(
                ["scontrol", "update", f"JobId={signaled[0]}", "StartTime=now"],
                capture_output=True,
            )

    settings = settings_for(folders, 2, num_threads=2, gpus_per_stage=2)
    run = run_all(settings, slurm.Options(time=5), (shared, alone), observe)
    assert not run.failed and signaled
    metrics = load_result(shared, folders).metrics
    assert metrics["num_processes"] == 2 and metrics["resumed_at"] > 0
    assert load_result(shared, folders).retries == {}
    assert load_result(alone, folders).metrics["num_processes"] == 1


@pytest.mark.usefixtures("needs_submitit")
def test_jobs_request_the_gpus_of_their_stages(folders, make, fake_slurm):
    settings = LauncherSettings(folders, 4, "cuda", FAKE_STAGES, gpus_per_stage=4)
    with slurm.open(settings) as launcher:
        for stage in (make("alone"), make("shared", kind="evaluate"), make("other")):
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher.jobs) == 3 and not launcher.to_submit
    gpus = read_lines(fake_slurm / "gpus")
    assert gpus == ["#SBATCH --gpus-per-node=1", "#SBATCH --gpus-per-node=4"]
    assert read_lines(fake_slurm / "cpus") == ["#SBATCH --cpus-per-task=16"] * 2


@pytest.mark.parametrize(
    ("options", "is_enough"),
    [
        ({"gres": "gpu:1"}, False),
        ({"gres": "gpu:a100:4"}, True),
        ({"gres": "lustre:1,gpu:h200:3"}, False),
        ({"gres": "gpu"}, False),
        ({"num_gpus": 3}, False),
        ({"gpus_per_node": 8}, True),
        ({"partition": "gpu"}, True),
    ],
)
@pytest.mark.usefixtures("needs_submitit", "fake_slurm")
def test_options_that_request_too_few_gpus_are_refused(folders, options, is_enough):
    settings = LauncherSettings(folders, device="cuda", gpus_per_stage=4)
    if is_enough:
        slurm.open(settings, slurm.Options(**options))
        return
    with pytest.raises(UserError, match="--gpus-per-stage needs 4"):
        slurm.open(settings, slurm.Options(**options))


@pytest.mark.usefixtures("needs_submitit")
def test_a_job_that_starts_after_the_end_of_its_run_does_nothing(folders, make, journal, tmp_path):
    stage = make("late")
    prepare(stage, stage.folder(folders.runs))
    request = slurm.WorkerRequest.of(
        stage.folder(folders.runs), settings_for(folders), 1, gpus=False
    )
    (tmp_path / slurm.ENDED_FILE).touch()
    assert slurm.Job(request, tmp_path / slurm.ENDED_FILE)()["status"] == "stopped"
    assert journal() == []


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands named like Slurm's on the PATH, which accept jobs and never run them.

    The returned folder controls them. With a file `refuse` in it, sbatch and squeue fail; with
    `interrupt`, sbatch interrupts its caller; with `hang`, squeue and scancel do not return.
    `names` holds the job names that sbatch received, `commands` the calls of squeue and scancel.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = """grep -o 'job-name=.*' $1 >> {here}/names
                grep 'gpus-per-node' $1 >> {here}/gpus
                grep 'cpus-per-task' $1 >> {here}/cpus
                if [ -e {here}/refuse ]
                then echo 'sbatch: error: invalid partition' >&2; exit 1; fi
                if [ -e {here}/interrupt ]; then kill -INT $PPID; fi
                echo "Submitted batch job $(wc -l < {here}/names)" """
    record = "echo $(basename $0) $@ >> {here}/commands; [ -e {here}/hang ] && exec sleep 100; "
    for name, script in {
        "sbatch": sbatch,
        "squeue": record + "[ ! -e {here}/refuse ]",
        "scancel": record + "true",
        "srun": "exit 1",
    }.items():
        (folder / name).write_text("#!/bin/sh\n" + script.format(here=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.usefixtures("needs_submitit")
def test_a_refusal_of_the_first_job_is_a_user_error_and_later_ones_wait(
    folders, make, fake_slurm, monkeypatch
):
    first, second = make("first"), make("second")
    first_folder, second_folder = (stage.folder(folders.runs) for stage in (first, second))
    (fake_slurm / "refuse").touch()
    with (
        slurm.open(settings_for(folders, 2)) as launcher,
        pytest.raises(UserError, match="no job: sbatch: error: invalid partition"),
    ):
        launcher.start(first, first_folder)
        launcher.wait(0)
    (fake_slurm / "refuse").unlink()
    with slurm.open(settings_for(folders, 2)) as launcher:
        launcher.start(first, first_folder)
        launcher.wait(0)
        (fake_slurm / "refuse").touch()
        launcher.start(second, second_folder)
        num_submitted = len(read_lines(fake_slurm / "names"))
        assert launcher.wait(0) == launcher.wait(0) == []
        assert list(launcher.jobs) == [first_folder] and launcher.to_submit == [second_folder]
        assert len(read_lines(fake_slurm / "names")) == num_submitted + 1, "not again at once"
        assert launcher.stop(0.0) == [Finished(second_folder, "stopped")], (
            "an unreadable queue is not an empty one"
        )
        assert list(launcher.jobs) == [first_folder]
        (fake_slurm / "refuse").unlink()
        monkeypatch.setattr(launcher, "submit_at", 0.0)
        launcher.start(second, second_folder)
        launcher.wait(0)
        assert list(launcher.jobs) == [first_folder, second_folder] and not launcher.to_submit


@pytest.mark.usefixtures("needs_submitit")
def test_jobs_of_an_interrupted_submission_are_cancelled(folders, make, fake_slurm):
    stage = make("some")
    (fake_slurm / "interrupt").touch()
    with slurm.open(settings_for(folders, 2), slurm.Options(job_name="prefix")) as launcher:
        launcher.start(stage, stage.folder(folders.runs))
        with pytest.raises(KeyboardInterrupt):
            launcher.wait(1)
        assert not launcher.jobs
        assert launcher.stop(1) == [Finished(stage.folder(folders.runs), "stopped")]
    (name,) = read_lines(fake_slurm / "names")
    assert name.startswith("job-name=prefix-")
    assert read_lines(fake_slurm / "commands") == [f"scancel --name={name[9:]}"]


@pytest.mark.usefixtures("needs_submitit")
def test_stop_calls_few_commands_each_with_a_time_limit(folders, make, fake_slurm, monkeypatch):
    """However many jobs there are, and even if Slurm does not respond."""
    monkeypatch.setattr(_slurm_commands, "COMMAND_TIMEOUT_S", 0.2)
    with slurm.open(settings_for(folders, None)) as launcher:
        for index in range(slurm.MAX_JOBS):
            stage = make(f"stage{index}")
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher.jobs) == slurm.MAX_JOBS
        (fake_slurm / "hang").touch()
        assert launcher.stop(0.0) == [] and len(launcher.jobs) == slurm.MAX_JOBS
    names = [line.split()[0] for line in read_lines(fake_slurm / "commands")]
    assert names == ["scancel", "scancel", "squeue", "scancel"]


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_unknown_jobs_of_the_run_are_cancelled(folders, make):
    stages = [make(name, sleep_s=60) for name in ("one", "two")]
    with slurm.open(settings_for(folders, 2, num_threads=1)) as launcher:
        for stage in stages:
            prepare(stage, stage.folder(folders.runs))
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher._queue().keys() & {job.job_id for job in launcher.jobs.values()}) == 2
        launcher.jobs.clear()
        launcher.is_submitting = True
    wait_for(lambda: launcher._queue() == {})


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_on_a_real_slurm_free_text_stays_text(tmp_path, make):
    """Names with quotes, spaces and shell syntax, in one folder and in the job script."""
    root = tmp_path / 'it\'s my "runs"; $HOME `id` $(id) & #x *?[a] ünï ☃' / "-dash"
    folders = Folders(root / "data", root / "raw", root / "runs")
    options = slurm.Options(
        job_name="a b'c", comment='it\'s "x"; $(touch owned)', wckey="`touch owned`"
    )
    run = run_all(settings_for(folders, 2, num_threads=1), options, (make("first"),))
    assert not run.failed
    assert list((folders.runs / "slurm").glob("*/*_log.out")), "its log is in the run's folder"


@pytest.mark.parametrize("name", ["50%j", "back\\slash", "new\nline", "esc\x1b[2J"])
@pytest.mark.usefixtures("needs_submitit", "fake_slurm")
def test_folders_that_slurm_misreads_are_refused(tmp_path, name):
    root = tmp_path / name
    with pytest.raises(UserError, match="Slurm cannot write to"):
        slurm.open(settings_for(Folders(root, root, root)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("comment=x\ntouch owned", "printable characters only"),
        ("job_name=x\r", "printable characters only"),
        ("partition=\x1b[2J", "printable characters only"),
        ("job_name=mine,other", "job_name"),
        ("job_name=", "job_name"),
    ],
)
def test_options_with_line_breaks_or_control_characters_are_refused(setting, message):
    """A line break would add a line to the job script, and a comma other jobs to scancel."""
    with pytest.raises(UserError, match=message):
        parse_options(slurm.Options, "slurm", [setting])


@pytest.mark.parametrize("options", [{"gres": "gpu:1"}, {"gpus_per_node": 1}])
def test_a_gpu_that_no_stage_would_use_is_refused(folders, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} has no effect without --device cuda"):
        slurm.open(settings_for(folders), slurm.Options(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": 1}, r"time=1 leaves no time to work.* Use time=3 or more"),
        ({"time": 2}, "time=2 leaves no time"),
        ({"time": 10, "signal_delay_s": 600}, "time=10 leaves no time"),
        ({"cluster": "local", "partition": "gpu"}, "partition has no effect with cluster=local"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        slurm.Options(**options)


@pytest.mark.usefixtures("needs_submitit")
def test_the_device_of_the_stages_is_printed(folders: Folders, fake_slurm, capsys):
    slurm.open(LauncherSettings(folders))
    assert "Stages run on CPUs" in capsys.readouterr().err
    default, with_gres = [
        slurm.open(LauncherSettings(folders, device="cuda"), options)
        for options in (slurm.Options(), slurm.Options(gres="gpu:1", reservation="class"))
    ]
    assert default.chooses_gpus and not with_gres.chooses_gpus
    chosen = with_gres.executor.parameters
    assert chosen["gres"] == "gpu:1" and "gpus_per_node" not in chosen
    assert chosen["additional_parameters"] == {"reservation": "class"}
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("needs_submitit")
def test_missing_programs_and_packages_are_named(folders, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="Slurm: "):
        slurm.open(settings_for(folders))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        slurm.open(settings_for(folders))
