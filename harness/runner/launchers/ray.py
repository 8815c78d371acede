"""Runs stages on the machines of a Ray cluster: a task each, with the CPUs and the share of a GPU that it needs."""

import functools
import logging
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.matrix.stage import Stage
from harness.runner.fork_server import ForkServer, is_supported
from harness.runner.launcher import Finished, LauncherSettings
from harness.runner.remote import RemoteAttempt, WorkerRequest, finished
from writers.errors import UserError


def open(settings: LauncherSettings) -> "RayLauncher":
    """Joins the cluster at option `address` (`auto`: the one this machine belongs to); without one, starts Ray here.

    Raises UserError where ray is not installed or the cluster does not answer.
    """
    settings.refuse_unknown_options("ray", ("address",))
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "The launcher ray needs the package ray.", "pip install 'harness[ray]'"
        ) from error
    try:
        ray.init(
            address=settings.options.get("address"),
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if "address" not in settings.options else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Ray does not answer: {str(error).splitlines()[0]}",
            "Start it with `ray start --head`, or name its --address HOST:PORT.",
        ) from error
    return RayLauncher(settings, ray)


class RayLauncher:
    """A task per stage. A task whose node or worker dies comes back as lost, and the executor starts it again elsewhere."""

    def __init__(self, settings: LauncherSettings, ray: Any) -> None:
        self.settings, self.ray = settings, ray
        self.tasks: dict[Any, Path] = {}  # Ray's reference to the answer -> the stage's folder
        resources = ray.cluster_resources()
        self.has_gpus = settings.device != "cpu" and resources.get("GPU", 0) >= 1
        if settings.device == "cuda" and not self.has_gpus:
            raise UserError("No machine of the Ray cluster has a GPU.", "Leave out --device cuda.")
        cpus = int(resources.get("CPU", 1))
        fewest = min(
            (int(node["Resources"].get("CPU", 0)) or cpus for node in ray.nodes() if node["Alive"]),
            default=cpus,
        )
        per_stage = (
            cpus // max(1, round(resources["GPU"] * settings.jobs_per_gpu))
            if self.has_gpus
            else min(4, fewest)
        )
        self.num_threads = settings.num_threads or max(1, min(per_stage, fewest))
        self.remote = ray.remote(_carry_out)

    @property
    def num_slots(self) -> int:
        """What the cluster carries now: machines come and go."""
        resources = self.ray.cluster_resources()
        carried = (
            resources["GPU"] * self.settings.jobs_per_gpu
            if self.has_gpus and "GPU" in resources
            else resources.get("CPU", 1) / self.num_threads
        )
        return self.settings.num_jobs or max(1, int(carried))

    def prefetch(self, kinds: Collection[str]) -> None:
        """Each stage has a worker of its own."""

    def can_start(self, stage: Stage) -> bool:
        return len(self.tasks) < self.num_slots

    def start(self, stage: Stage, folder: Path) -> None:
        order = WorkerRequest.of(folder, self.settings, self.num_threads, gpus=self.has_gpus)
        share = (
            1 / self.settings.jobs_per_gpu
            if self.has_gpus and self.settings.stage_kind(folder.parent.name).needs_gpu
            else 0
        )
        # max_retries=0: what is lost comes back here, where it is counted, waits its turn, and is shown.
        options = {
            "num_cpus": self.num_threads,
            "num_gpus": share,
            "max_retries": 0,
            "name": folder.parent.name,
        }
        self.tasks[self.remote.options(**options).remote(order)] = folder

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self.tasks:
            time.sleep(timeout_s)
            return []
        ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=timeout_s)
        return [self._answer(task) for task in ready]

    def stop(self, grace_s: float) -> list[Finished]:
        for task in self.tasks:
            self.ray.cancel(task, force=False)
        deadline, answers = time.monotonic() + grace_s, []
        while self.tasks and (left := deadline - time.monotonic()) > 0:
            answers += self.wait(left)
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self.tasks:
            self.ray.cancel(task, force=True)
        self.ray.shutdown()

    def _answer(self, task: Any) -> Finished:
        folder = self.tasks.pop(task)
        exceptions = self.ray.exceptions
        try:
            return finished(folder, self.ray.get(task))
        except exceptions.TaskCancelledError:
            return Finished(folder, "stopped")
        except exceptions.OutOfMemoryError as error:
            return Finished(folder, "failed", _first_line(error), "out_of_memory")
        except exceptions.RayTaskError as error:  # our own code failed there
            return Finished(folder, "failed", str(error).strip().splitlines()[-1], "bug")
        except exceptions.RayError as error:  # a node or a worker has gone
            return Finished(folder, "failed", f"Ray lost it: {_first_line(error)}", "lost")


def _carry_out(order: WorkerRequest) -> dict[str, Any]:
    """The task, on the machine that Ray chose. Ray keeps its processes for the tasks to come, and they their fork servers."""
    return RemoteAttempt(order, _fork_server()).run()


@functools.cache
def _fork_server() -> ForkServer | None:
    return ForkServer() if is_supported() else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
