"""Run stages on this machine, in worker processes, one per slot (place for one running stage).

A worker runs many stages, so that imports and JIT compilation happen once. Workers are forked from
a process that has imported the modules they need (`harness.runner.fork_server`). Workers of low
priority, and all workers if forking fails, are started as new processes.
"""

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

from harness.matrix.stage import Stage
from harness.runner import stage_state
from harness.runner.fork_server import (
    ForkedWorker,
    ForkServer,
    SpawnedWorker,
    describe_exit,
    is_supported,
    wait_for_killed,
)
from harness.runner.gpu_packing import GpuSharing, ResourceKey, has_utilization, resource_key
from harness.runner.launcher import (
    THREAD_VARIABLES,
    Finished,
    LauncherOptions,
    LauncherSettings,
)
from harness.runner.protocol import Answer, request_line
from harness.runner.signals import STOPPED
from harness.runner.slots import Slot, make_slots
from harness.system import environment


class Options(LauncherOptions):
    """The local launcher has no options besides `LauncherSettings`."""

    USES_GPUS_TOGETHER: ClassVar[bool] = True


def open(settings: LauncherSettings, options: Options | None = None) -> "LocalLauncher":
    """Open the launcher.

    Raises:
        UserError: the settings do not fit this machine; see `make_slots`.
    """
    return LocalLauncher(settings, make_slots(settings))


class LocalLauncher:
    """Keeps one worker per slot: starts it when it is first needed, and replaces it if it dies."""

    def __init__(self, settings: LauncherSettings, slots: list[Slot]) -> None:
        """Create the launcher; workers are started later."""
        self.settings = settings
        self.slots = slots
        may_share = settings.jobs_per_gpu > 1
        self.sharing = GpuSharing(
            settings.folders.runs,
            min(environment.gpu_memory_bytes(), default=0) if may_share else 0,
            by_utilization=may_share and has_utilization(),
        )
        if may_share and not self.sharing.by_utilization:
            print(
                "Stages share a GPU by memory alone: GPU utilization cannot be measured here "
                "(requires nvidia-ml-py; MIG slices report none).",
                file=sys.stderr,
            )
        self.selector = selectors.DefaultSelector()
        self.fork_server = settings.fork_server

    @property
    def num_slots(self) -> int:
        """Number of slots, without the low-priority one for CPU stages next to GPU stages."""
        return sum(not slot.low_priority for slot in self.slots)

    def can_start(self, stage: Stage) -> bool:
        """Return True if a slot is free for this stage."""
        return bool(self._free(stage))

    def _free(self, stage: Stage) -> list[Slot]:
        """Return free slots for this stage. Stages without a GPU leave the GPU slots free."""
        low_priority = any(slot.low_priority for slot in self.slots) and not stage.spec.needs_gpu
        return [
            slot
            for slot in self.slots
            if slot.running is None
            and slot.low_priority == low_priority
            and (slot.gpu is None or self.sharing.fits(resource_key(stage), self._on(slot.gpu)))
        ]

    def _on(self, gpu: str) -> list[ResourceKey]:
        """Return the keys of the stages that run on the GPU now."""
        return [
            slot.resource_key for slot in self.slots if slot.gpu == gpu and slot.running is not None
        ]

    def _is_shared(self, stage: Stage, gpu: str) -> bool:
        """Return True if the stage may share the GPU, now or later. Call before it starts."""
        return self.settings.jobs_per_gpu > 1 and (
            bool(self._on(gpu)) or self.sharing.is_known(resource_key(stage))
        )

    def prefetch(self, kinds: Collection[str]) -> None:
        """Import the code of these kinds in the fork server."""
        if self.fork_server is not None:
            with self._server_may_die():
                self.fork_server.prepare(
                    [self.settings.run_module(kind) for kind in sorted(kinds)],
                    self._variables(self.slots[0]),
                )

    def start(self, stage: Stage, folder: Path) -> None:
        """Send the stage to a worker, preferably one that has imported its code."""
        free = self._free(stage)
        assert free, "start() without a free slot"
        module = self.settings.run_module(stage.kind)
        slot = max(
            free, key=lambda slot: (_is_warm(slot.process, module), slot.process is not None)
        )
        if (
            slot.process is not None
            and self.fork_server is not None
            and not _is_warm(slot.process, module)
        ):
            # Replace the cold worker: forking another one with the module imported is faster.
            self._close(slot)
        for _ in range(2):  # the worker may have died while idle
            if slot.process is None:
                self._open_worker(slot, module)
            assert slot.process is not None and slot.process.stdin is not None
            shares_gpu = slot.gpu is not None and self._is_shared(stage, slot.gpu)
            slot.running, slot.resource_key = folder, resource_key(stage)
            try:
                slot.process.stdin.write(request_line(folder, shares_gpu=shares_gpu))
                slot.process.stdin.flush()
                return
            except BrokenPipeError:
                slot.running = None
                self._reap(slot)
        raise RuntimeError(
            f"a worker ends as soon as it starts; try: {' '.join(self._command(slot))}"
        )

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the stages that have ended, waiting at most `timeout_s` for the first."""
        finished = []
        for key, _ in self.selector.select(timeout_s):
            slot: Slot = key.data
            finished += self._read(slot)
        return finished

    def stop(self, grace_s: float) -> list[Finished]:
        """Send SIGTERM to busy workers; kill those that still run after the grace time.

        Returns:
            Stages that ended within the grace time.
        """
        finished: list[Finished] = []
        for slot in self.slots:
            if slot.process is not None and slot.running is not None:
                slot.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        try:
            while (
                any(slot.running for slot in self.slots)
                and (remaining_s := deadline - time.monotonic()) > 0
            ):
                finished += self.wait(remaining_s)
        finally:  # also after a second Ctrl-C
            for slot in self.slots:
                if slot.process is not None and slot.running is not None:
                    self._end(slot, wait_s=0.0)
                    slot.running = None
        return finished

    def __enter__(self) -> Self:
        """Start the fork server, unless it was started early."""
        if self.fork_server is None and is_supported():
            self.fork_server = ForkServer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stdin of idle workers, which ends them; kill all that still run."""
        idle = [slot for slot in self.slots if slot.process is not None and slot.running is None]
        for slot in idle:
            _close_stdin(slot)
        for slot in self.slots:
            if slot.process is not None:
                self._end(slot, wait_s=5.0 if slot in idle else 0.0)
        self.selector.close()
        if self.fork_server is not None:
            self.fork_server.close()

    def _command(self, slot: Slot) -> list[str]:
        command = self.settings.worker_command(
            "cpu" if slot.gpu is None else "cuda:0", slot.num_threads
        )
        return [*command, *(["--cores", ",".join(map(str, slot.cores))] if slot.cores else [])]

    def _variables(self, slot: Slot) -> dict[str, str]:
        return {
            **dict.fromkeys(THREAD_VARIABLES, str(slot.num_threads)),
            "CUDA_VISIBLE_DEVICES": slot.gpu or "",
            # Number GPUs as nvidia-smi does. By default, CUDA begins with the fastest one.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }

    def _open_worker(self, slot: Slot, module: str) -> None:
        """Start the slot's worker.

        Args:
            slot: slot without a worker.
            module: name of the module with the code of the first stage.
        """
        command = self._command(slot)
        # The low-priority slot and the fork server have different numbers of threads.
        if self.fork_server is not None and not slot.low_priority:
            with self._server_may_die():
                slot.process = self.fork_server.fork(module, command, self._variables(slot))
        if slot.process is None:
            if slot.low_priority:
                command = ["nice", "-n", "10", *command]
            slot.process = SpawnedWorker(command, self._variables(slot))
        assert slot.process.stdout is not None
        self.selector.register(slot.process.stdout, selectors.EVENT_READ, slot)

    @contextlib.contextmanager
    def _server_may_die(self) -> Iterator[None]:
        """Drop the fork server if it dies inside the block; workers are then spawned."""
        try:
            yield
        except OSError:
            assert self.fork_server is not None
            self.fork_server.close()
            self.fork_server = None

    def _read(self, slot: Slot) -> list[Finished]:
        """Read the worker's answers; reap the worker if its output has ended."""
        assert slot.process is not None
        output: IO[bytes] | None = slot.process.stdout
        assert output is not None
        chunk = os.read(output.fileno(), 65536)
        if not chunk:
            return self._reap(slot)
        *lines, slot.unread = (slot.unread + chunk).split(b"\n")
        finished = []
        for line in lines:
            answer: Answer = json.loads(line)
            folder = Path(answer["stage"])
            finished.append(Finished(folder, answer["status"], answer["message"], answer["cause"]))
            if slot.gpu is not None and answer["cause"] == "out_of_memory":
                self.sharing.mark_oom(slot.resource_key)
            elif slot.gpu is not None and answer["status"] == "done":
                self.sharing.learn(slot.resource_key, folder)
            slot.running = None
        if finished and finished[-1].cause == "restart":
            self._close(slot)
        return finished

    def _reap(self, slot: Slot) -> list[Finished]:
        """Clean up after a worker that has ended unexpectedly; report the stage that it ran."""
        folder, slot.running = slot.running, None
        code = self._end(slot, wait_s=5.0)
        return [] if folder is None else [_lost(folder, code, self.settings)]

    def _close(self, slot: Slot) -> None:
        """End an idle worker."""
        _close_stdin(slot)
        self._end(slot, wait_s=5.0)

    def _end(self, slot: Slot, wait_s: float) -> int | None:
        """End the worker and all processes that it has started.

        Args:
            slot: slot with a worker; it has no worker afterwards.
            wait_s: seconds to wait until the worker ends by itself.

        Returns:
            Exit code of the worker; None if unknown.
        """
        process, slot.process, slot.unread = slot.process, None, b""
        assert process is not None and process.stdin is not None and process.stdout is not None
        self.selector.unregister(process.stdout)
        deadline = time.monotonic() + wait_s
        while not process.has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = wait_for_killed(process)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return code


def _is_warm(worker: SpawnedWorker | ForkedWorker | None, module: str) -> bool:
    """Return True if the worker has imported the module, or was spawned and so is not replaced."""
    return isinstance(worker, SpawnedWorker) or (worker is not None and module in worker.imported)


def _close_stdin(slot: Slot) -> None:
    assert slot.process is not None and slot.process.stdin is not None
    with contextlib.suppress(OSError):
        slot.process.stdin.close()


def _lost(folder: Path, code: int | None, settings: LauncherSettings) -> Finished:
    """Describe the end of a stage whose worker has ended with this exit code."""
    kind = settings.stage_kind(folder.parent.name)
    if stage_state.is_done(kind, folder, settings.folders.data):
        return Finished(folder, "done")  # the worker ended between the result and the answer
    if code == STOPPED:
        return Finished(folder, "stopped")
    message = f"The worker process {describe_exit(code)}; its output is in {folder / 'log.txt'}"
    return Finished(folder, "failed", message, "lost")
