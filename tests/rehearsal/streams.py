"""Fake CUDA streams and events. They order work only as far as CUDA guarantees it.

Kernels run at once, on the CPU. A `non_blocking` copy from or to pinned memory is deferred until
its result is needed: by a later kernel of its stream, by a stream that waits for it, or by the
host. Until the host has waited, the memory that the copy reads must not change.

Each stream counts its submissions. A clock maps a stream to its last submission that is known to
come before.
"""

import itertools
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

NUM_POOLED = 32  # streams of a pool, assigned in turn (torch's kStreamsPerPool in CUDAStream.cpp)

lock = threading.RLock()
_installations = itertools.count()


class RehearsalError(RuntimeError):
    """A fault that CUDA would not report: a wrong order of work."""


class CudaError(RuntimeError):
    """Error for a call that CUDA or torch.cuda refuses."""


@dataclass
class Copy:
    """A copy that is not known to be complete on the host."""

    target: Tensor
    source: Tensor
    number: int
    expected: Tensor  # the source when the copy was submitted
    installation: int  # number of the fake's installation; later installations ignore the copy
    is_done: bool = False
    taken_by: set["Queue"] = field(default_factory=set)  # streams that have waited for it


@dataclass(eq=False)
class Queue:
    """The state of one stream; several Stream objects of a pool may share it."""

    device: int
    name: str
    submitted: int = 0
    completed: int = 0  # last submission that is complete, as far as the host has waited
    waited: dict["Queue", int] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    capture: Any = None  # the graph that captures this stream

    def submit(self) -> int:
        self.submitted += 1
        return self.submitted

    def clock(self) -> dict["Queue", int]:
        return {**self.waited, self: self.submitted}

    def run_copies(self) -> list[Copy]:
        """Run and return the pending copies."""
        with lock:
            pending = [copy for copy in self.copies if not copy.is_done]
            for copy in pending:
                copy.is_done = True
                raw_copy(copy.target, copy.source)
            return pending

    def complete(self, number: int) -> None:
        """Note that the host has waited for this submission. Raises RehearsalError."""
        with lock:
            self.run_copies()
            ended = [copy for copy in self.copies if copy.number <= number]
            self.copies = [copy for copy in self.copies if copy.number > number]
            self.completed = max(self.completed, number)
            for copy in ended:
                check_unchanged(copy)

    @property
    def has_pending(self) -> bool:
        return bool(self.copies) and any(not copy.is_done for copy in self.copies)


class Machine:
    """Streams of this process, and which stream used the memory that a copy wrote."""

    def __init__(self) -> None:
        self.installation = next(_installations)
        self.pools: dict[tuple[int, int], list[Queue]] = {}
        self.turns: dict[tuple[int, int], Any] = {}
        self.defaults: dict[int, Queue] = {}
        self.users: dict[int, tuple[Queue, int]] = {}  # address that a copy wrote -> who took it
        self.faults: list[str] = []
        self.expects_faults = False  # set by a test that breaks a rule
        self.current = threading.local()  # .device, .queues: of each thread

    def pooled(self, device: int, priority: int) -> tuple[Queue, int]:
        key = (device, min(0, priority))
        with lock:
            if key not in self.pools:
                names = (f"cuda:{device}, priority {key[1]}, {n}" for n in range(NUM_POOLED))
                self.pools[key] = [Queue(device, name) for name in names]
                self.turns[key] = itertools.cycle(range(NUM_POOLED))
            number = next(self.turns[key])
            return self.pools[key][number], number

    def default(self, device: int) -> Queue:
        with lock:
            return self.defaults.setdefault(device, Queue(device, f"cuda:{device}, default"))

    def queues(self) -> list[Queue]:
        with lock:
            return [*self.defaults.values(), *(q for pool in self.pools.values() for q in pool)]


machine = Machine()


def raise_fault(message: str) -> None:
    machine.faults.append(message)
    raise RehearsalError(message)


def raw_copy(target: Tensor, source: Tensor) -> None:
    with torch._C.DisableTorchFunction(), torch.no_grad():
        target.detach().copy_(source.detach())


def check_unchanged(copy: Copy) -> None:
    if copy.installation != machine.installation:
        return
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        same = torch.equal(copy.source, copy.expected)
    if not same:
        raise_fault(
            "Pinned memory was written while a copy out of it was not known to be complete."
        )


def submit_copy(target: Tensor, source: Tensor) -> None:
    """Submit a copy to the current stream. Raises RehearsalError if the order of work is wrong.

    Fault 1: the host refilled memory that an earlier copy may still read. Fault 2: another stream
    uses the target, and the current stream has not waited for it.
    """
    queue = current_queue()
    with lock:
        for other in machine.queues():
            for copy in other.copies:
                if overlap(copy.source, source):
                    check_unchanged(copy)
        used = machine.users.get(target.data_ptr())
        if used is not None and used[0] is not queue:
            user, number = used
            if max(queue.waited.get(user, 0), user.completed) <= number:
                raise_fault("A copy writes memory that another stream may still read.")
        with torch._C.DisableTorchFunction():
            expected = source.detach().clone()
        copy = Copy(
            target.detach(), source.detach(), queue.submit(), expected, machine.installation
        )
        queue.copies.append(copy)


def overlap(one: Tensor, other: Tensor) -> bool:
    (a, b), (c, d) = _span(one), _span(other)
    return a < d and c < b


def _span(tensor: Tensor) -> tuple[int, int]:
    with torch._C.DisableTorchFunction():
        length = sum(
            (size - 1) * stride
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            if size
        )
        begin = tensor.data_ptr()
        return begin, begin + (length + 1) * tensor.element_size() if tensor.numel() else begin


# Current device and streams: each thread has its own.


def current_device() -> int:
    return int(getattr(machine.current, "device", 0))


def set_current_device(index: int) -> int:
    before = current_device()
    machine.current.device = index
    return before


def current_queue(device: int | None = None) -> Queue:
    index = current_device() if device is None else device
    queue = getattr(machine.current, "queues", {}).get(index)
    return queue if queue is not None else machine.default(index)


def set_current_queue(queue: Queue) -> None:
    if not hasattr(machine.current, "queues"):
        machine.current.queues = {}
    machine.current.queues[queue.device] = queue


def check_may_wait(queue: Queue | None = None) -> None:
    """Raise CudaError if a capture forbids this thread to wait, allocate or query."""
    for other in machine.queues():
        graph = other.capture
        if graph is None:
            continue
        mine = graph.thread == threading.get_ident()
        if (
            queue is other
            or graph.error_mode == "global"
            or (mine and graph.error_mode != "relaxed")
        ):
            graph.invalidate("the host waited, or allocated, during the capture")
            raise CudaError("CUDA error: operation not permitted when stream is capturing")


class Stream:
    """Fake `torch.cuda.Stream`. Equal objects are the same stream: a pool assigns 32 in turn."""

    def __init__(
        self, device: Any = None, priority: int = 0, *, queue: Queue | None = None, **_: Any
    ) -> None:
        self.priority = min(0, priority)
        self._number = 0
        if queue is None:
            index = device_index(device)
            queue, self._number = machine.pooled(index, priority)
        self.queue = queue

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.queue.device)

    @property
    def cuda_stream(self) -> int:
        return 0 if self.queue is machine.default(self.queue.device) else id(self.queue)

    stream_id = cuda_stream

    def wait_event(self, event: "Event") -> None:
        event.wait(self)

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        check_may_wait(self.queue)
        return self.queue.completed >= self.queue.submitted

    def synchronize(self) -> None:
        check_may_wait(self.queue)
        with lock:
            for queue, number in self.queue.clock().items():
                queue.complete(number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.queue is self.queue

    def __hash__(self) -> int:
        return hash(id(self.queue))

    def __enter__(self) -> "Stream":
        self._before = current_queue(self.queue.device)
        set_current_queue(self.queue)
        return self

    def __exit__(self, *_: object) -> None:
        set_current_queue(self._before)


class Event:
    """Fake `torch.cuda.Event`. It counts as complete only after the host has waited for it."""

    def __init__(
        self,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> None:
        self._enable_timing = enable_timing
        self._queue: Queue | None = None
        self._number, self._time_s = 0, 0.0
        self._clock: dict[Queue, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        queue = stream.queue if stream is not None else current_queue()
        if queue.capture is not None:
            queue.capture.check_thread()
        with lock:
            self._queue, self._number = queue, queue.submit()
            self._clock, self._time_s = queue.clock(), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream wait; None means the current one.

        An event that was never recorded does not block, as in CUDA.
        """
        waiter = stream.queue if stream is not None else current_queue()
        if waiter.capture is not None:
            waiter.capture.check_thread()
        if self._queue is None or self._queue is waiter:
            return
        if self._queue.capture is not None and waiter.capture is None:
            self._queue.capture.check_thread()
        with lock:
            for queue, number in self._clock.items():
                if queue is waiter:
                    continue
                queue.run_copies()
                for copy in queue.copies:  # from now on, the waiter may use what they wrote
                    if copy.number <= number and waiter not in copy.taken_by:
                        copy.taken_by.add(waiter)
                        machine.users[copy.target.data_ptr()] = waiter, waiter.submitted
                waiter.waited[queue] = max(waiter.waited.get(queue, 0), number)

    def synchronize(self) -> None:
        check_may_wait(self._queue)
        with lock:
            for queue, number in self._clock.items():
                queue.complete(number)

    def query(self) -> bool:
        """Return True if the host has waited for the event. A False result counts as waiting."""
        check_may_wait(self._queue)
        if self._is_complete():
            return True
        with lock:
            for queue, number in self._clock.items():
                queue.complete(number)
        return False

    def elapsed_time(self, end: "Event") -> float:
        """Return milliseconds. Raises CudaError as torch does."""
        if not (self._enable_timing and end._enable_timing):
            raise CudaError("Both events must be created with argument 'enable_timing=True'.")
        if self._queue is None or end._queue is None:
            raise CudaError("Both events must be recorded before calculating elapsed time.")
        if not (self._is_complete() and end._is_complete()):
            raise CudaError("Both events must be completed before calculating elapsed time.")
        return 1000 * (end._time_s - self._time_s)

    def _is_complete(self) -> bool:
        return self._queue is None or self._queue.completed >= self._number


def synchronize(device: Any = None) -> None:
    """Wait for all streams of a device."""
    check_may_wait()
    index = device_index(device)
    with lock:
        for queue in machine.queues():
            if queue.device == index:
                queue.complete(queue.submitted)


def device_index(device: Any) -> int:
    """Return the index that a device argument of torch.cuda names; None is the current device."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        return device if device >= 0 else current_device()
    named = torch.device(device)
    return current_device() if named.index is None else named.index


# Pinned memory belongs to numpy arrays. Views of it, also those of numpy, are found by address.

_pinned: dict[int, int] = {}  # first address -> number of bytes


def pinned_empty(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor in pinned memory."""
    check_may_wait()
    with torch._C.DisableTorchFunction():
        length = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True) if n)
        itemsize = torch.empty((), dtype=dtype).element_size()
        num_bytes = max(1, length) * itemsize
        memory = np.empty(num_bytes + 64, np.uint8)
        begin = memory.ctypes.data
        with lock:
            _pinned[begin] = len(memory)
        weakref.finalize(memory, _pinned.pop, begin, None)
        aligned = memory[-begin % 64 :][:num_bytes]
        return torch.from_numpy(aligned).view(dtype).as_strided(shape, stride)


def is_pinned(tensor: Tensor) -> bool:
    """Return True if a tensor is in memory that `pinned_empty` allocated."""
    with torch._C.DisableTorchFunction():
        address = tensor.data_ptr()
    with lock:
        return any(begin <= address < begin + size for begin, size in _pinned.items())
