"""Run stages as Slurm jobs, through submitit.

Stages that start together are submitted as one array per number of GPUs. A job that is preempted or
reaches its time limit saves its stage and is queued again. A job that a person cancels with scancel
fails.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.matrix.stage import Stage
from harness.runner import queue_state
from harness.runner.launcher import Finished, LauncherSettings
from harness.runner.launchers import _slurm_commands as slurm_commands
from harness.runner.launchers._slurm_options import Options
from harness.runner.remote import RemoteAnswer, RemoteAttempt, WorkerRequest, finished
from writers.errors import UserError

MAX_JOBS = 64  # jobs in the queue at the same time, unless --jobs is given
MAX_REQUEUES = 1000  # number of times that a job is queued again at its time limit
NUM_THREADS = 4  # CPU threads per process of a stage, unless --threads is given
RESUBMIT_S = 30.0  # wait after Slurm has refused a job
POLL_QUEUE_S = 5.0  # interval between two queries of the queue
ENDED_FILE = "ended"  # while this file is in the launcher's folder, jobs of this run do nothing


def open(settings: LauncherSettings, options: Options | None = None) -> "SlurmLauncher":
    """Create the launcher; nothing is submitted yet.

    Raises:
        UserError: submitit or Slurm is missing, or Slurm refuses an option. Also if an option
            requests a GPU that no stage would use, or fewer GPUs than a stage uses.
    """
    options = options or Options()
    if options.gpu_options and settings.device != "cuda":
        raise UserError(
            f"--launcher-option {options.gpu_options[0]} has no effect without --device cuda: "
            "stages would leave the GPU idle.",
            "Add --device cuda.",
        )
    num_requested, num_needed = options.num_requested_gpus, settings.gpus_per_stage
    if num_requested is not None and num_requested < num_needed:
        raise UserError(
            f"--launcher-option {options.gpu_options[0]} requests {num_requested} GPUs per job; "
            f"--gpus-per-stage needs {num_needed}.",
            f"Request {num_needed} GPUs, or leave the option out.",
        )
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "The launcher slurm needs the package submitit.", "pip install 'harness[slurm]'"
        ) from error
    if settings.device == "auto":
        print("Stages run on CPUs; use --device cuda for one GPU each.", file=sys.stderr)
    _check_folder(settings.folders.runs)
    folder = settings.folders.runs / "slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    num_threads = settings.num_threads or NUM_THREADS * settings.gpus_per_stage
    job_name = ""
    try:
        if options.cluster == "local":
            executor: Any = submitit.LocalExecutor(folder, max_num_timeout=MAX_REQUEUES)
            executor.update_parameters(
                timeout_min=options.time, signal_delay_s=options.signal_delay_s
            )
        else:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_REQUEUES)
            job_name = f"{options.job_name}-{folder.name}"
            parameters = options.sbatch_parameters()
            executor.update_parameters(
                **{**parameters, "cpus_per_task": num_threads, "job_name": job_name}
            )
    except (NameError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Slurm: {str(error).strip().splitlines()[0]}",
            "Use a machine that has sbatch, and check --launcher-option.",
        ) from error
    chooses_gpus = settings.device == "cuda" and not options.gpu_options
    return SlurmLauncher(settings, executor, num_threads, job_name, chooses_gpus=chooses_gpus)


def _check_folder(runs: Path) -> None:
    r"""Raise UserError for a path that Slurm misreads: it replaces %x, and \ turns that off."""
    text = str(runs.absolute())
    if not text.isprintable() or set(text) & set("%\\"):
        raise UserError(
            f"Slurm cannot write to {text}: the path has a percent sign, a backslash or an "
            "unprintable character.",
            "Choose another folder: --runs-dir DIR.",
        )


class SlurmLauncher:
    """Submits one job per stage.

    Use `--device cuda` for one GPU per job; whether machines have GPUs cannot be determined from
    Slurm. Stages that several processes can run get `gpus_per_stage` GPUs of one node.
    """

    def __init__(
        self,
        settings: LauncherSettings,
        executor: Any,
        num_threads: int,
        job_name: str,
        *,
        chooses_gpus: bool = False,
    ) -> None:
        """Create the launcher.

        Args:
            settings: settings that all launchers share.
            executor: submitit's executor.
            num_threads: CPU threads of a stage.
            job_name: name of all jobs of this run, which no other job has; empty for jobs that run
                on this machine, without Slurm.
            chooses_gpus: jobs request as many GPUs as their stages use. Otherwise the executor's
                parameters decide.
        """
        self.settings, self.executor = settings, executor
        self.num_threads, self.job_name = num_threads, job_name
        self.chooses_gpus = chooses_gpus
        self.is_local = not job_name
        self.ended_file = Path(executor.folder) / ENDED_FILE
        self.to_submit: list[Path] = []
        self.submit_at = 0.0  # earliest monotonic time of the next submission
        self.has_submitted = False
        # True if a submission was interrupted: Slurm may then have jobs that are not in `jobs`.
        self.is_submitting = False
        self.is_stopping = False
        self.jobs: dict[Path, Any] = {}  # folder of the stage -> submitit's job
        self.polled_at = time.monotonic()
        self.missing: set[Path] = set()  # stages whose job was not in the queue at the last query

    @property
    def num_slots(self) -> int:
        """Largest number of jobs in the queue."""
        return self.settings.num_jobs or MAX_JOBS

    def prefetch(self, kinds: Collection[str]) -> None:
        """Do nothing, because each job starts a new worker."""

    def can_start(self, stage: Stage) -> bool:
        """Return True if the queue may take another job."""
        return len(self.jobs) + len(self.to_submit) < self.num_slots

    def start(self, stage: Stage, folder: Path) -> None:
        """Submit the stage in the next call of `wait`, in an array with other stages."""
        self.to_submit.append(folder)

    def wait(self, timeout_s: float) -> list[Finished]:
        """Submit new jobs and return the stages that have ended."""
        self._submit()
        answers, deadline = self._answers(), time.monotonic() + timeout_s
        while not answers and time.monotonic() < deadline:
            time.sleep(min(0.1, timeout_s))
            answers = self._answers()
        return answers

    def stop(self, grace_s: float) -> list[Finished]:
        """Cancel pending jobs, and send SIGTERM to running jobs, so that their stages save.

        The number of Slurm commands does not depend on the number of jobs.
        """
        self.is_stopping = True
        deadline = time.monotonic() + grace_s
        stopped = [
            Finished(folder, "stopped") for folder in self.to_submit if folder not in self.jobs
        ]
        self.to_submit.clear()
        if self.is_local:
            for job in self.jobs.values():
                job._process.terminate()  # submitit's controller forwards it
        elif self.jobs:
            # Do not pass --signal for pending jobs: scancel would wait a minute for each.
            slurm_commands.scancel("--state=PENDING", f"--name={self.job_name}")
            slurm_commands.scancel("--signal=TERM", "--state=RUNNING", f"--name={self.job_name}")
            queue = self._queue()
            for folder in [
                folder
                for folder, job in self.jobs.items()
                if queue is not None
                and job.job_id not in queue
                and not job.paths.result_pickle.exists()
            ]:
                stopped.append(Finished(folder, "stopped"))
                self._forget(folder)
        while self.jobs and time.monotonic() < deadline:
            stopped += self.wait(0.2)
        return stopped

    def __enter__(self) -> Self:
        """Return the launcher itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel everything that this run has submitted.

        Slurm may have queued a preempted job again after it reported its end. Such a job is found
        by its name. If scancel fails, ENDED_FILE prevents the job from starting its stage.
        """
        if self.has_submitted or self.is_submitting:
            with contextlib.suppress(OSError):
                self.ended_file.parent.mkdir(parents=True, exist_ok=True)
                self.ended_file.touch()
        if self.is_local:
            for job in self.jobs.values():
                with contextlib.suppress(ProcessLookupError):
                    job._process.kill()
        elif self.has_submitted or self.is_submitting:
            slurm_commands.scancel(f"--name={self.job_name}")
        for folder in list(self.jobs):
            self._forget(folder)

    def _submit(self) -> None:
        """Submit the stages that `start` has collected, as one array per number of GPUs.

        If Slurm refuses jobs after it has accepted others, it may be busy, or a limit is reached;
        the jobs are submitted again later.

        Raises:
            UserError: Slurm refuses the first jobs of a run, probably because options are wrong.
        """
        if not self.to_submit or time.monotonic() < self.submit_at:
            return
        gpus = self.settings.device == "cuda"
        requests = [
            WorkerRequest.of(folder, self.settings, self.num_threads, gpus=gpus)
            for folder in self.to_submit
        ]
        arrays: dict[int, list[WorkerRequest]] = {}
        for request in requests:
            # Request at least one GPU: partitions of GPU nodes may refuse jobs without a GPU.
            num_gpus = max(1, request.num_gpus) if self.chooses_gpus else 0
            arrays.setdefault(num_gpus, []).append(request)
        self.is_submitting = True
        try:
            for num_gpus, array in arrays.items():
                self._submit_array(array, num_gpus)
        except Exception as error:  # submitit raises many types, with the output of sbatch
            if not self.has_submitted:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(
                    f"Slurm accepts no job: {lines[-1]}",
                    "Check --launcher-option, or use --jobs for fewer jobs at once.",
                ) from error
            self.submit_at = time.monotonic() + RESUBMIT_S
            return
        self.is_submitting = False

    def _submit_array(self, requests: list[WorkerRequest], num_gpus: int) -> None:
        """Submit requests as one array. num_gpus: 0 means the executor's parameters decide."""
        if num_gpus:
            self.executor.update_parameters(gpus_per_node=num_gpus)
        with self.executor.batch():
            jobs = [self.executor.submit(Job(request, self.ended_file)) for request in requests]
        folders = [request.folder for request in requests]
        self.jobs |= dict(zip(folders, jobs, strict=True))
        self.to_submit = [folder for folder in self.to_submit if folder not in self.jobs]
        self.has_submitted = True

    def _answers(self) -> list[Finished]:
        ended = [folder for folder, job in self.jobs.items() if job.paths.result_pickle.exists()]
        if ended:
            return [self._answer(folder) for folder in ended]
        return [self._end_without_answer(folder) for folder in self._poll_queue()]

    def _answer(self, folder: Path) -> Finished:
        job = self._forget(folder)
        try:
            end = finished(folder, job.results()[0])
        except Exception as error:  # a bug in `Job`; submitit raises many types
            return Finished(
                folder,
                "failed",
                f"{str(error).strip().splitlines()[-1]} ({job.paths.stderr})",
                "bug",
            )
        if end.status != "stopped" or self.is_stopping or self.is_local:
            return end
        # SIGTERM came from scancel or from a preemption; only Slurm's record shows from which.
        if slurm_commands.is_cancelled(job.job_id):
            return _cancelled(folder, job.job_id)
        # Slurm may queue a preempted job again. Cancel that job: the executor submits a new one.
        slurm_commands.scancel(job.job_id)
        return end

    def _end_without_answer(self, folder: Path) -> Finished:
        job = self._forget(folder)
        if not self.is_local and slurm_commands.is_cancelled(job.job_id):
            return _cancelled(folder, job.job_id)
        message = f"Slurm job {job.job_id} ended without reporting a result."
        return Finished(folder, "failed", message, "lost")

    def _forget(self, folder: Path) -> Any:
        """Remove the stage's job from `jobs` and return it."""
        queue_state.clear(folder)
        return self.jobs.pop(folder)

    def _poll_queue(self) -> list[Path]:
        """Record why jobs wait; return the stages whose job has ended without an answer.

        A job has ended if it is missing in two queries of the queue: after the first, its answer
        may still arrive.
        """
        if time.monotonic() - self.polled_at < POLL_QUEUE_S:
            return []
        self.polled_at = time.monotonic()
        queue = self._queue()
        if queue is None:
            return []
        missing = set()
        for folder, job in self.jobs.items():
            if job.job_id not in queue:
                missing.add(folder)
            elif (queued := queue[job.job_id]).state == "PENDING":
                reason = f"PENDING ({queued.reason})"
                queue_state.write(folder, f"Slurm job {job.job_id}: {reason}")
            else:
                queue_state.clear(folder)
        lost, self.missing = missing & self.missing, missing
        return list(lost)

    def _queue(self) -> dict[str, slurm_commands.QueuedJob] | None:
        """Return job id -> state of jobs in the queue; None if Slurm does not respond."""
        if self.is_local:
            running = slurm_commands.QueuedJob("RUNNING", "None")
            return {job.job_id: running for job in self.jobs.values() if not job.done()}
        return slurm_commands.queue()


def _cancelled(folder: Path, job_id: str) -> Finished:
    return Finished(folder, "failed", f"Its job {job_id} was cancelled with scancel.", "cancelled")


class Job:
    """Callable that submitit pickles and calls on the machine that Slurm chose."""

    def __init__(self, request: WorkerRequest, ended_file: Path) -> None:
        """Create the job.

        Args:
            request: the stage to run.
            ended_file: if this file exists, the run has ended, and the job does nothing.
        """
        self.request, self.ended_file = request, ended_file
        self.attempt: RemoteAttempt | None = None

    def __call__(self) -> RemoteAnswer:
        """Run the stage."""
        if self.ended_file.exists():
            return {"status": "stopped", "cause": "", "message": ""}
        attempt = self.attempt = RemoteAttempt(self.request)
        # Replace submitit's handler, which ignores SIGTERM. Slurm also sends SIGTERM to the worker,
        # which may therefore receive it twice.
        signal.signal(signal.SIGTERM, lambda number, frame: attempt.stop())
        return attempt.run()

    def checkpoint(self) -> Any:
        """Let the stage save before preemption or time limit; submitit then requeues the job."""
        from submitit.helpers import DelayedSubmission

        if self.attempt is not None:
            self.attempt.stop_and_wait()
        return DelayedSubmission(Job(self.request, self.ended_file))
