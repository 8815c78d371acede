"""Runs stages as Slurm jobs, through submitit: arrays of those that start together; preempted ones save and queue again."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.matrix.stage import Stage
from harness.runner.launcher import Finished, LauncherSettings
from harness.runner.remote import Attempt, Order, finished
from writers.errors import UserError

MOST_JOBS = 64  # in the queue at once, unless --jobs says otherwise
SUBMIT_AGAIN_S = 30.0  # after a refusal
LOOK_EVERY_S = 5.0  # at the queue, for jobs that end without an answer
THREADS = 4  # of a stage, unless --threads says otherwise
MOST_REQUEUES = 1000  # at the time limit: each goes on where the last one saved
MINUTES = (
    24 * 60
)  # a job's limit, unless --slurm time=MINUTES; at it, a stage saves and is queued again


def open(settings: LauncherSettings) -> "SlurmLauncher":
    """Options are those of submitit's executor: partition, qos, account, time (minutes), mem, constraint, gres, ...

    The option `cluster=local` runs the jobs on this machine without Slurm. Raises UserError where submitit or Slurm is missing,
    and for a GPU that no stage would use.
    """
    gpus = [
        name
        for name, value in settings.options.items()
        if name in ("num_gpus", "gpus_per_node", "gpus_per_task")
        or (name == "gres" and "gpu" in value)
    ]
    if gpus and settings.device != "cuda":
        raise UserError(
            f"--slurm {gpus[0]} has no effect without --device cuda: stages would leave the GPU idle.",
            "Say --device cuda.",
        )
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "The launcher slurm needs the package submitit.", "pip install 'harness[slurm]'"
        ) from error
    if settings.device == "auto":
        print("Stages run on CPUs; say --device cuda for a GPU each.", file=sys.stderr)
    options = dict(settings.options)
    cluster = options.pop("cluster", "slurm")
    folder = settings.folders.runs / "slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    threads, job_name = settings.num_threads or THREADS, ""
    try:
        if cluster == "local":
            executor: Any = submitit.LocalExecutor(folder, max_num_timeout=MOST_REQUEUES)
            executor.update_parameters(timeout_min=MINUTES, **options)
        else:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_REQUEUES)
            a_gpu = {"gpus_per_node": 1} if settings.device == "cuda" and not gpus else {}
            options["job_name"] = job_name = f"{options.get('job_name', 'harness')}-{folder.name}"
            executor.update_parameters(
                **{
                    "cpus_per_task": threads,
                    "time": MINUTES,
                    **a_gpu,
                    **{
                        key: int(value) if value.isdigit() else value
                        for key, value in options.items()
                    },
                }
            )
    except (NameError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Slurm: {str(error).strip().splitlines()[0]}",
            "Run it on a machine that has sbatch, and see --slurm.",
        ) from error
    return SlurmLauncher(settings, executor, threads, job_name)


class SlurmLauncher:
    """A job per stage. Say --device cuda for a GPU each; Slurm itself cannot be asked which machines have one."""

    def __init__(
        self, settings: LauncherSettings, executor: Any, num_threads: int, job_name: str
    ) -> None:
        """job_name: of this run's jobs alone; empty where they run here, without Slurm."""
        self.settings, self.executor, self.num_threads, self.job_name = (
            settings,
            executor,
            num_threads,
            job_name,
        )
        self.is_local = not job_name
        self.to_submit: list[Path] = []
        self.submit_at = 0.0  # not before; by the monotonic clock
        self.has_submitted = False
        self.is_submitting = (
            False  # where that was interrupted, Slurm may have jobs that we do not know
        )
        self.jobs: dict[Path, Any] = {}  # a stage's folder -> submitit's job
        self.looked_at = time.monotonic()
        self.missing: set[Path] = set()  # jobs that were not in the queue when we looked last

    @property
    def num_slots(self) -> int:
        return self.settings.num_jobs or MOST_JOBS

    def expect(self, kinds: Collection[str]) -> None:
        """Each stage has a worker of its own."""

    def has_room(self, stage: Stage) -> bool:
        return len(self.jobs) + len(self.to_submit) < self.num_slots

    def start(self, stage: Stage, folder: Path) -> None:
        self.to_submit.append(folder)  # with all that start before the next `wait`: an array

    def wait(self, timeout_s: float) -> list[Finished]:
        self._submit()
        answers, deadline = self._answers(), time.monotonic() + timeout_s
        while not answers and time.monotonic() < deadline:
            time.sleep(min(0.1, timeout_s))
            answers = self._answers()
        return answers

    def stop(self, grace_s: float) -> list[Finished]:
        """SIGTERM for what runs, which saves; what only waits in the queue is taken out of it."""
        stopped = [
            Finished(folder, "stopped") for folder in self.to_submit if folder not in self.jobs
        ]
        self.to_submit.clear()
        for job in self.jobs.values():
            self._signal(job, "TERM")
        if not self.is_local and self.jobs:
            self._scancel("--state=PENDING", *(job.job_id for job in self.jobs.values()))
            known = self._queue()
            for folder in [
                folder
                for folder, job in self.jobs.items()
                if known is not None and job.job_id not in known
            ]:
                stopped.append(Finished(folder, "stopped"))
                del self.jobs[folder]
        deadline = time.monotonic() + grace_s
        while self.jobs and time.monotonic() < deadline:
            stopped += self.wait(0.2)
        return stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_local:
            for job in self.jobs.values():
                self._signal(job, "KILL")
        elif self.jobs or self.is_submitting:
            self._scancel(f"--name={self.job_name}")

    def _submit(self) -> None:
        """Raises UserError where Slurm refuses the first of a run: its options may be wrong. Later it may be busy, or our share
        of it used up: then they wait."""
        if not self.to_submit or time.monotonic() < self.submit_at:
            return
        orders = [
            Order.of(folder, self.settings, self.num_threads, gpus=self.settings.device == "cuda")
            for folder in self.to_submit
        ]
        self.is_submitting = True
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(Job(order)) for order in orders]
        except (
            Exception
        ) as error:  # submitit has many kinds of its own, and prints what sbatch says
            if not self.has_submitted:
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(
                    f"Slurm takes no job: {said[-1]}", "See --slurm, and --jobs for fewer at once."
                ) from error
            self.submit_at = time.monotonic() + SUBMIT_AGAIN_S
            return
        self.jobs |= dict(zip(self.to_submit, jobs, strict=True))
        self.to_submit, self.has_submitted, self.is_submitting = [], True, False

    def _answers(self) -> list[Finished]:
        ended = [folder for folder, job in self.jobs.items() if job.paths.result_pickle.exists()]
        lost = [] if ended else self._lost()
        return [self._answer(folder) for folder in ended] + [
            Finished(
                folder,
                "failed",
                f"Its job {self.jobs.pop(folder).job_id} has left the queue without an answer.",
                "lost",
            )
            for folder in lost
        ]

    def _answer(self, folder: Path) -> Finished:
        job = self.jobs.pop(folder)
        try:
            return finished(folder, job.results()[0])
        except Exception as error:  # our own code failed there; submitit has many kinds of its own
            return Finished(
                folder,
                "failed",
                f"{str(error).strip().splitlines()[-1]} ({job.paths.stderr})",
                "bug",
            )

    def _lost(self) -> list[Path]:
        """Jobs that ended without an answer: twice not in the queue, because an answer may come a moment later."""
        if time.monotonic() - self.looked_at < LOOK_EVERY_S:
            return []
        self.looked_at = time.monotonic()
        known = self._queue()
        if known is None:
            return []
        missing = {folder for folder, job in self.jobs.items() if job.job_id not in known}
        lost, self.missing = missing & self.missing, missing
        return list(lost)

    def _queue(self) -> set[str] | None:
        """The jobs that wait or run; None where Slurm does not say. Asked itself: `sacct` needs an accounting database."""
        if self.is_local:
            return {job.job_id for job in self.jobs.values() if not job.done()}
        told = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i %A"],
            capture_output=True,
            text=True,
        )
        # %i: 12_3 for a task of an array; %A: the plain number. A single job has the same in both.
        return set(told.stdout.split()) if told.returncode == 0 else None

    def _signal(self, job: Any, name: str) -> None:
        if not self.is_local:
            self._scancel(f"--signal={name}", job.job_id)
        elif name == "TERM":
            job._process.terminate()  # submitit's controller passes it on
        else:
            with contextlib.suppress(ProcessLookupError):
                job._process.kill()

    def _scancel(self, *arguments: str) -> None:
        subprocess.run(["scancel", *arguments], capture_output=True)


class Job:
    """What submitit pickles and calls on the machine that Slurm chose."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.attempt: Attempt | None = None

    def __call__(self) -> dict[str, Any]:
        attempt = self.attempt = Attempt(self.order)
        # submitit ignores SIGTERM. Slurm sends it to the worker too, where once more does no harm.
        signal.signal(signal.SIGTERM, lambda number, frame: attempt.stop())
        return attempt.run()

    def checkpoint(self) -> Any:
        """Before preemption or the end of the time limit: let the stage save; submitit then queues the job again."""
        from submitit.helpers import DelayedSubmission

        if self.attempt is not None:
            self.attempt.stop_and_wait()
        return DelayedSubmission(Job(self.order))
