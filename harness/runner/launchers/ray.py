"""Run stages on the machines of a Ray cluster, as tasks that reserve CPUs and GPUs.

If no address is given, Ray is started on this machine for this run, and listens only on the
loopback interface. Other clusters on this machine and $RAY_ADDRESS are then ignored.
"""

import functools
import logging
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pydantic import Field

from harness.matrix.stage import Stage
from harness.runner.fork_server import ForkServer, is_supported
from harness.runner.launcher import Finished, LauncherOptions, LauncherSettings
from harness.runner.remote import RemoteAnswer, RemoteAttempt, WorkerRequest, finished
from writers.errors import UserError
from writers.text_names import first_line

IMPORT_TIMEOUT_S = 120.0  # limit for importing ray, which takes seconds on a busy machine
CONNECT_TIMEOUT_S = 8.0  # limit for ray's health check of a cluster, which takes 1 s
# Program that prints a line after importing ray, and then checks a cluster.
HEALTH_CHECK = """
import sys
from ray.scripts.scripts import cli
print(flush=True)
cli(["health-check", *sys.argv[1:]])
"""
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class Options(LauncherOptions):
    """Options of the ray launcher."""

    USES_GPUS_TOGETHER: ClassVar[bool] = True

    address: str | None = Field(
        default=None,
        description="HOST:PORT of the cluster's head, or auto for the cluster of this machine; "
        "without it, Ray is started on this machine",
    )


def open(settings: LauncherSettings, options: Options | None = None) -> "RayLauncher":
    """Connect to a cluster, or start Ray on this machine.

    Raises:
        UserError: Ray is not installed, the cluster does not respond, or it has too few GPUs for
            `--device cuda` or `--gpus-per-stage`.
    """
    options = options or Options()
    if options.address is None:
        # Ray reads this variable when it is imported. By default it listens on all interfaces, and
        # anyone who can connect may run code.
        os.environ[LOOPBACK_VARIABLE] = "0"
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "The launcher ray needs the package ray.", "pip install 'harness[ray]'"
        ) from error
    if options.address is not None:
        _check_responds(options.address)
    try:
        ray.init(
            address=options.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if options.address is None else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_response(options.address or "on this machine", first_line(error)) from error
    return RayLauncher(settings, ray)


class RayLauncher:
    """Runs one task per stage.

    A stage whose node or worker dies is reported as lost; the executor starts it again elsewhere.
    """

    def __init__(self, settings: LauncherSettings, ray: Any) -> None:
        """Read the cluster's resources; `ray` is the initialized module."""
        self.settings, self.ray = settings, ray
        self.tasks: dict[Any, Path] = {}  # Ray's reference to an answer -> stage's folder
        resources = ray.cluster_resources()
        self.has_gpus = settings.device != "cpu" and resources.get("GPU", 0) >= 1
        if settings.device == "cuda" and not self.has_gpus:
            raise UserError("No machine of the Ray cluster has a GPU.", "Leave out --device cuda.")
        if self.has_gpus:
            self._check_gpus_per_stage()
        num_cpus = int(resources.get("CPU", 1))
        min_cpus = min(
            (
                int(node["Resources"].get("CPU", 0)) or num_cpus
                for node in ray.nodes()
                if node["Alive"]
            ),
            default=num_cpus,
        )
        per_stage = (
            num_cpus // max(1, self._num_gpu_slots())
            if self.has_gpus
            else 4 * settings.gpus_per_stage
        )
        self.num_threads = settings.num_threads or max(1, min(per_stage, min_cpus))
        self.remote = ray.remote(_run_attempt)

    @property
    def num_slots(self) -> int:
        """Number of stages that the cluster can run now; machines may join and leave."""
        num_cpus = self.ray.cluster_resources().get("CPU", 1)
        num_slots = (self._num_gpu_slots() if self.has_gpus else 0) or num_cpus / self.num_threads
        return self.settings.num_jobs or max(1, int(num_slots))

    def _num_gpu_slots(self) -> int:
        """Number of stages that the GPUs can run now; all GPUs of a stage are in one machine."""
        per_stage, per_gpu = self.settings.gpus_per_stage, self.settings.jobs_per_gpu
        return sum(num_gpus // per_stage * per_gpu for num_gpus in self._gpus_of_nodes())

    def _gpus_of_nodes(self) -> list[int]:
        return [int(node["Resources"].get("GPU", 0)) for node in self.ray.nodes() if node["Alive"]]

    def _check_gpus_per_stage(self) -> None:
        """Raise UserError if no machine has enough GPUs for a stage, or stages would share them."""
        per_stage, most = self.settings.gpus_per_stage, max(self._gpus_of_nodes(), default=0)
        if most < per_stage:
            raise UserError(
                f"--gpus-per-stage {per_stage}: no machine of the Ray cluster has more than {most} "
                "GPUs.",
                f"Use --gpus-per-stage {most} or fewer.",
            )
        if per_stage > 1 and self.settings.jobs_per_gpu > 1:
            raise UserError(
                "--gpus-per-stage and --jobs-per-gpu exclude each other with --launcher ray.",
                "Leave out one of them.",
            )

    def prefetch(self, kinds: Collection[str]) -> None:
        """Do nothing: the machines' fork servers import code when they need it."""

    def can_start(self, stage: Stage) -> bool:
        """Return True if fewer tasks run than there are slots."""
        return len(self.tasks) < self.num_slots

    def start(self, stage: Stage, folder: Path) -> None:
        """Submit the stage as a task."""
        request = WorkerRequest.of(folder, self.settings, self.num_threads, gpus=self.has_gpus)
        # max_retries=0: Ray does not retry lost tasks; the executor does, and counts the retries.
        options = {
            "num_cpus": self.num_threads,
            "num_gpus": request.num_gpus / self.settings.jobs_per_gpu,
            "max_retries": 0,
            "name": folder.parent.name,
        }
        self.tasks[self.remote.options(**options).remote(request)] = folder

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the stages that have ended, waiting at most `timeout_s` for the first."""
        if not self.tasks:
            time.sleep(timeout_s)
            return []
        ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=timeout_s)
        return [self._answer(task) for task in ready]

    def stop(self, grace_s: float) -> list[Finished]:
        """Interrupt all tasks, so that their stages save, and wait at most `grace_s` for them."""
        for task in self.tasks:
            self.ray.cancel(task, force=False)
        deadline, answers = time.monotonic() + grace_s, []
        while self.tasks and (remaining_s := deadline - time.monotonic()) > 0:
            answers += self.wait(remaining_s)
        return answers

    def __enter__(self) -> Self:
        """Return the launcher itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the tasks that still run, and disconnect."""
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
            return Finished(folder, "failed", first_line(error), "out_of_memory")
        except exceptions.RayTaskError as error:  # a bug in `_run_attempt`
            return Finished(folder, "failed", str(error).strip().splitlines()[-1], "bug")
        except exceptions.RayError as error:  # a node or a worker was lost
            return Finished(
                folder, "failed", f"Ray lost the stage's task: {first_line(error)}", "lost"
            )


def _check_responds(address: str) -> None:
    """Raise UserError if the cluster does not respond. `ray.init` itself waits for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        try:
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise _no_response(address, str(error)) from error
    if address.startswith("ray://"):  # a proxy, which has no health check
        return
    options = ["--address", address] if address != "auto" else []
    with subprocess.Popen(
        [sys.executable, "-c", HEALTH_CHECK, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            select.select([process.stdout], [], [], IMPORT_TIMEOUT_S)
            is_healthy = process.wait(CONNECT_TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            is_healthy = False
        finally:
            process.kill()
    if not is_healthy:
        raise _no_response(address, "its health check failed")


def _no_response(address: str, reason: str) -> UserError:
    return UserError(
        f"Ray {address} does not respond: {reason}",
        "Start it with `ray start --head`, or give --launcher-option address=HOST:PORT.",
    )


def _run_attempt(request: WorkerRequest) -> RemoteAnswer:
    """Run a stage, as a task on the machine that Ray chose.

    Ray reuses its processes for later tasks, and each process keeps its fork server.
    """
    return RemoteAttempt(request, _fork_server()).run()


@functools.cache
def _fork_server() -> ForkServer | None:
    return ForkServer() if is_supported() else None
