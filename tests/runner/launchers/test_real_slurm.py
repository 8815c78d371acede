"""Slurm launcher on a real Slurm of one node, which the tests start.

The tests are skipped unless Debian's slurm-wlm and munge are installed.
"""

import os
import signal
import subprocess

import pytest

from harness.runner import queue_state, result
from harness.runner.executor import Run, prepare
from harness.runner.launchers import slurm
from harness.system.folders import Folders
from tests.helpers.execution import load_result, matrix_of, settings_for, wait_for
from tests.helpers.slurm_runs import command_of, kill_processes_of, pids_of, run_all


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_killed_and_preempted_jobs_of_an_array_are_retried(folders, make, journal):
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
def test_a_preempted_stage_is_retried(folders, make, journal, tmp_path):
    """A job of a partition with a higher priority takes its CPUs, and Slurm sends SIGTERM."""
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
def test_scancel_fails_a_stage_and_does_not_retry_it(folders, make, journal):
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
def test_stop_saves_running_jobs_and_cancels_pending_ones(folders, make, journal):
    stages = [make(f"sleeper{index}", sleep_s=60) for index in range(slurm.MAX_JOBS)]
    is_running = lambda stage: (stage.folder(folders.runs) / "progress.json").exists()  # noqa: E731
    with slurm.open(settings_for(folders, None, num_threads=1)) as launcher:
        run = Run(matrix_of(*stages), folders, launcher)
        for _ in run.events():
            notes = [queue_state.read(stage.folder(folders.runs)) for stage in stages]
            if sum(map(is_running, stages)) == 2 and any("PENDING (" in note for note in notes):
                break
        assert len(launcher.jobs) == slurm.MAX_JOBS
        run.stop(240)
        assert not run.running and not launcher.jobs
    assert len(journal()) == 2
    for stage in filter(is_running, stages):
        assert (stage.folder(folders.runs) / "steps.txt").exists()
    assert not any(queue_state.read(stage.folder(folders.runs)) for stage in stages)
    wait_for(lambda: launcher._queue() == {})


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_a_job_requeued_after_its_result_ends_with_the_run(folders, make):
    """Slurm queues a preempted job again, even if the launcher no longer waits for it."""
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
def test_two_processes_of_a_stage_save_and_resume(folders, make):
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


@pytest.mark.usefixtures("needs_submitit", "real_slurm")
def test_unknown_jobs_of_the_run_are_cancelled(folders, make):
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
def test_free_text_stays_text(tmp_path, make):
    """Shell syntax, quotes and spaces in folder names and job options are never executed."""
    root = tmp_path / 'it\'s my "runs"; $HOME `id` $(id) & #x *?[a] ünï ☃' / "-dash"
    folders = Folders(root / "data", root / "raw", root / "runs")
    options = slurm.Options(
        job_name="a b'c", comment='it\'s "x"; $(touch owned)', wckey="`touch owned`"
    )
    run = run_all(settings_for(folders, 2, num_threads=1), options, (make("first"),))
    assert not run.failed
    assert list((folders.runs / "slurm").glob("*/*_log.out")), "its log is in the run's folder"
