"""Runs stages on this machine: warm worker processes, one a slot, so that imports and JIT are paid for once.

They are forked from one process that imports what they need (`harness.runner.fork_server`), or started afresh where that cannot be.
"""

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from harness.matrix.stage import Stage
from harness.runner import stage_state
from harness.runner.fork_server import (
    ForkedWorker,
    ForkServer,
    SpawnedWorker,
    describe_exit,
    is_supported,
)
from harness.runner.gpu_packing import GpuSharing, ResourceKey, has_utilization, resource_key
from harness.runner.launcher import (
    THREAD_VARIABLES,
    Finished,
    LauncherSettings,
    request_line,
)
from harness.runner.signals import STOPPED
from harness.system import environment
from writers.errors import UserError


@dataclass
class Slot:
    """One place for a stage: threads, perhaps a GPU, and the worker that serves it while there is one."""

    index: int
    num_threads: int
    gpu: str | None  # or GPUs, as CUDA_VISIBLE_DEVICES names them
    cores: tuple[int, ...] = ()  # its own; none: whichever are free
    low_priority: bool = False  # runs, at low priority, what needs no GPU beside what does
    process: SpawnedWorker | ForkedWorker | None = None
    running: Path | None = None  # the stage's folder
    like: ResourceKey = ()  # what runs or ran last
    unread: bytes = field(default=b"", repr=False)


def open(settings: LauncherSettings) -> "LocalLauncher":
    settings.refuse_unknown_options("local", ())
    return LocalLauncher(settings, slots(settings))


def slots(settings: LauncherSettings) -> list[Slot]:
    """`jobs_per_gpu` slots per GPU, or per so many as a stage gets, and one beside them for stages that need none, which gives
    way to them.

    Without a GPU: a thread per slot on up to 4 cores, else 4 threads per slot. Slots that fit share out the cores.
    Raises UserError where GPUs are asked for that are not there, and where more stages than GPUs take are to run side by side.
    """
    gpus = [] if settings.device == "cpu" else _visible_gpus()
    if settings.device == "cuda" and not gpus:
        raise UserError(
            "--device cuda: nvidia-smi shows no GPU that this process may use.",
            "See harness doctor and CUDA_VISIBLE_DEVICES, or leave out --device cuda.",
        )
    if settings.jobs_per_gpu > 1 and not gpus:
        raise UserError(
            "--jobs-per-gpu has no effect: there is no GPU.",
            "Say --jobs N for stages side by side.",
        )
    num_gpus = settings.gpus_per_stage
    if 0 < len(gpus) < num_gpus:
        raise UserError(
            f"A stage is to have {num_gpus} GPUs, and this machine has {len(gpus)}.",
            "Give it fewer.",
        )
    gpus = [
        ",".join(gpus[first : first + num_gpus])
        for first in range(0, len(gpus) - num_gpus + 1, num_gpus)
    ]
    cores = environment.num_cores()
    carried = len(gpus) * settings.jobs_per_gpu
    if gpus and settings.num_jobs is not None and settings.num_jobs > carried:
        raise UserError(
            f"--jobs {settings.num_jobs}: only {carried} stages run side by side on the GPUs here.",
            "Say --jobs-per-gpu N for stages that share one.",
        )
    default = carried or max(1, (cores if cores <= 4 else cores // 4) // num_gpus)
    num_slots = settings.num_jobs or default
    num_threads = settings.num_threads or max(1, cores // num_slots)
    own = environment.cores()
    pinned = num_slots > 1 and num_slots * num_threads <= cores == len(own)
    found = [
        Slot(
            index,
            num_threads,
            gpus[index % len(gpus)] if gpus else None,
            tuple(own[index * num_threads : (index + 1) * num_threads]) if pinned else (),
        )
        for index in range(num_slots)
    ]
    return [*found, Slot(num_slots, max(1, cores // 4), None, low_priority=True)] if gpus else found


class LocalLauncher:
    """Keeps one worker process per slot, started when first needed, replaced when it dies."""

    def __init__(self, settings: LauncherSettings, slots: list[Slot]) -> None:
        self.settings = settings
        self.slots = slots
        shared = settings.jobs_per_gpu > 1
        self.sharing = GpuSharing(
            settings.folders.runs,
            min(environment.gpu_memory_bytes(), default=0) if shared else 0,
            by_time=shared and has_utilization(),
        )
        if shared and not self.sharing.by_time:
            print(
                "Stages share a GPU by memory alone: how busy they keep it cannot be measured here (nvidia-ml-py, MIG).",
                file=sys.stderr,
            )
        self.selector = selectors.DefaultSelector()
        self.fork_server = settings.fork_server

    @property
    def num_slots(self) -> int:
        return sum(not slot.low_priority for slot in self.slots)

    def can_start(self, stage: Stage) -> bool:
        return bool(self._free(stage))

    def _free(self, stage: Stage) -> list[Slot]:
        """Slots that may take this stage: what needs no GPU leaves the GPUs alone, and those that share one fit into it."""
        beside = any(slot.low_priority for slot in self.slots) and not stage.spec.needs_gpu
        return [
            slot
            for slot in self.slots
            if slot.running is None
            and slot.low_priority == beside
            and (slot.gpu is None or self.sharing.fit(resource_key(stage), self._on(slot.gpu)))
        ]

    def _on(self, gpu: str) -> list[ResourceKey]:
        """What runs on the GPU now."""
        return [slot.like for slot in self.slots if slot.gpu == gpu and slot.running is not None]

    def _has_company(self, stage: Stage, gpu: str) -> bool:
        """Whether others run on the GPU, or may join the stage there. Asked before it starts."""
        return self.settings.jobs_per_gpu > 1 and (
            bool(self._on(gpu)) or self.sharing.is_known(resource_key(stage))
        )

    def prefetch(self, kinds: Collection[str]) -> None:
        if self.fork_server is not None:
            with self._server_may_die():
                self.fork_server.prepare(
                    [self._module(kind) for kind in sorted(kinds)], self._variables(self.slots[0])
                )

    def start(self, stage: Stage, folder: Path) -> None:
        free = self._free(stage)
        assert free, "start() without a free slot"
        module = self._module(stage.kind)
        slot = max(
            free, key=lambda slot: (_is_warm(slot.process, module), slot.process is not None)
        )
        if (
            slot.process is not None
            and self.fork_server is not None
            and not _is_warm(slot.process, module)
        ):
            self._close(slot)  # another copy has imported it already
        for _ in range(2):  # a worker may have died while idle: then a fresh one
            if slot.process is None:
                self._open_worker(slot, module)
            assert slot.process is not None and slot.process.stdin is not None
            shares_gpu = slot.gpu is not None and self._has_company(stage, slot.gpu)
            slot.running, slot.like = folder, resource_key(stage)
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
        finished = []
        for key, _ in self.selector.select(timeout_s):
            slot: Slot = key.data
            finished += self._read(slot)
        return finished

    def stop(self, grace_s: float) -> list[Finished]:
        finished: list[Finished] = []
        for slot in self.slots:
            if slot.process is not None and slot.running is not None:
                slot.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        try:
            while (
                any(slot.running for slot in self.slots)
                and (left := deadline - time.monotonic()) > 0
            ):
                finished += self.wait(left)
        finally:  # also on a second Ctrl-C
            for slot in self.slots:
                if slot.process is not None and slot.running is not None:
                    self._end(slot, wait_s=0.0)
                    slot.running = None
        return finished

    def __enter__(self) -> Self:
        if self.fork_server is None and is_supported():
            self.fork_server = ForkServer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Idle workers end when their stdin does; whatever still runs is killed with all that it started."""
        idle = [slot for slot in self.slots if slot.process is not None and slot.running is None]
        for slot in idle:
            _close_stdin(slot)
        for slot in self.slots:
            if slot.process is not None:
                self._end(slot, wait_s=5.0 if slot in idle else 0.0)
        self.selector.close()
        if self.fork_server is not None:
            self.fork_server.__exit__(kind, error, trace)

    def _module(self, kind: str) -> str:
        return self.settings.run_module(kind)

    def _command(self, slot: Slot) -> list[str]:
        command = self.settings.worker_command(
            "cpu" if slot.gpu is None else "cuda:0", slot.num_threads
        )
        return [*command, *(["--cores", ",".join(map(str, slot.cores))] if slot.cores else [])]

    def _variables(self, slot: Slot) -> dict[str, str]:
        return {
            **dict.fromkeys(THREAD_VARIABLES, str(slot.num_threads)),
            "CUDA_VISIBLE_DEVICES": slot.gpu or "",
        }

    def _open_worker(self, slot: Slot, module: str) -> None:
        """module: of the stage that it is to run first."""
        command = self._command(slot)
        if (
            self.fork_server is not None and not slot.low_priority
        ):  # which has threads of its own number
            with self._server_may_die():
                slot.process = self.fork_server.fork(module, command, self._variables(slot))
        if slot.process is None:
            slot.process = SpawnedWorker(
                ["nice", "-n", "10", *command] if slot.low_priority else command, self._variables(slot)
            )
        assert slot.process.stdout is not None
        self.selector.register(slot.process.stdout, selectors.EVENT_READ, slot)

    @contextlib.contextmanager
    def _server_may_die(self) -> Iterator[None]:
        """Without it workers start afresh."""
        try:
            yield
        except OSError:
            assert self.fork_server is not None
            self.fork_server.__exit__(None, None, None)
            self.fork_server = None

    def _read(self, slot: Slot) -> list[Finished]:
        """The answers that a worker has written; at the end of its output, what became of its stage."""
        assert slot.process is not None
        output: IO[bytes] | None = slot.process.stdout
        assert output is not None
        chunk = os.read(output.fileno(), 65536)
        if not chunk:
            return self._reap(slot)
        *lines, slot.unread = (slot.unread + chunk).split(b"\n")
        finished = []
        for line in lines:
            answer = json.loads(line)
            finished.append(
                Finished(
                    Path(answer["stage"]), answer["status"], answer["message"], answer["cause"]
                )
            )
            if slot.gpu is not None and answer["cause"] == "out_of_memory":
                self.sharing.mark_oom(slot.like)
            elif slot.gpu is not None and answer["status"] == "done":
                self.sharing.learn(slot.like, Path(answer["stage"]))
            slot.running = None
        return finished

    def _reap(self, slot: Slot) -> list[Finished]:
        """A worker has ended by itself. If it died in a stage, that stage has failed, and says how."""
        folder, slot.running = slot.running, None
        code = self._end(slot, wait_s=5.0)
        return [] if folder is None else [_died(folder, code, self.settings)]

    def _close(self, slot: Slot) -> None:
        """End an idle worker."""
        _close_stdin(slot)
        self._end(slot, wait_s=5.0)

    def _end(self, slot: Slot, wait_s: float) -> int | None:
        """End the worker and all that it has started, forget it, and return its exit code, where that can be known."""
        process, slot.process, slot.unread = slot.process, None, b""
        assert process is not None and process.stdin is not None and process.stdout is not None
        self.selector.unregister(process.stdout)
        deadline = time.monotonic() + wait_s
        while not process.has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return code


def _is_warm(worker: SpawnedWorker | ForkedWorker | None, module: str) -> bool:
    """Whether it has imported the module. One that was started afresh is kept whatever it has."""
    return isinstance(worker, SpawnedWorker) or (worker is not None and module in worker.imported)


def _close_stdin(slot: Slot) -> None:
    assert slot.process is not None and slot.process.stdin is not None
    with contextlib.suppress(OSError):
        slot.process.stdin.close()


def _died(folder: Path, code: int | None, settings: LauncherSettings) -> Finished:
    kind = settings.stage_kind(folder.parent.name)
    if stage_state.is_done(kind, folder, settings.folders.data):  # it died between the result and the answer
        return Finished(folder, "done")
    if code == STOPPED:
        return Finished(folder, "stopped")
    said = f"The worker process {describe_exit(code)}; its output is in {folder / 'log.txt'}"
    return Finished(folder, "failed", said, "lost")


def _visible_gpus() -> list[str]:
    """The GPUs' names for CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = environment.gpu_names()
    return (
        chosen.split(",")[: len(found)]
        if chosen and found
        else [str(index) for index in range(len(found))]
    )
