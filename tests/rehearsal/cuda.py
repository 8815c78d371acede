"""Install the fake `torch.cuda` in a process, and remove it again.

`install()` replaces the functions and classes of `torch.cuda`. In this thread and in those that
start later, it also turns the device "cuda" into "cpu" in calls of torch. `map_devices=False` omits
this, for FakeTensorMode, whose tensors have their own device "cuda".

A limit of the fake: tensors report the device "cpu". test_training.py lists the branches that are
therefore not tested.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.rehearsal import graphs, machine, streams
from tests.rehearsal.streams import CudaError

RESERVED_BYTES = 256 * 2**20  # constant that the fake allocator reports
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

# Functions that read no element of a tensor, so that they do not wait for a pending copy.
METADATA = frozenset(
    [
        "permute",
        "reshape",
        "view",
        "size",
        "stride",
        "dim",
        "numel",
        "is_contiguous",
        "__get__",
        "__len__",
        "data_ptr",
        "detach",
        "is_pinned",
        "record_stream",
        "storage_offset",
        "untyped_storage",
        "element_size",
        "numpy",
        "expand",
    ]
)
HOST_READS = frozenset(
    ["item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero"]
)

FROM_NUMPY = torch.from_numpy
_state = threading.local()  # .sync_error: True if a sync raises in this thread
_process = SimpleNamespace(initialized=False)


class OnCpu(TorchFunctionMode):
    """Runs calls for the device "cuda" on the CPU, in the order of the current stream."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "device":  # the class torch.device: devices keep their names
            return func(*args, **kwargs)
        queue = streams.current_queue()
        if queue.capture is not None and name not in METADATA:
            queue.capture.check_thread()
        if name in HOST_READS or (name == "to" and _to_host(args, kwargs)):
            _host_read(name, args[0], queue)
            result = func(*args, **kwargs)
            # Return a copy, as on a GPU.
            return result.clone() if name in ("cpu", "to") and result is args[0] else result
        is_copy = name == "copy_" or (name == "to" and kwargs.get("non_blocking"))
        if queue.has_pending and not (is_copy or name in METADATA or _is_slice(name, args)):
            queue.run_copies()
        handler = HANDLERS.get(name)
        if handler is not None:
            return handler(func, args, kwargs)
        return _on_cpu(func, args, kwargs)


def _on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    is_cuda = False
    if "device" in kwargs and _is_cuda(kwargs["device"]):
        _check_generator(kwargs)
        kwargs["device"], is_cuda = "cpu", True
        if getattr(func, "__name__", "") in ("tensor", "as_tensor"):
            _host_write("a tensor made of host values")
    if args and any(_is_cuda(value) for value in args):
        args = tuple("cpu" if _is_cuda(value) else value for value in args)
        is_cuda = True
    if not is_cuda and kwargs.pop("pin_memory", False):
        made = func(*args, **kwargs)
        pinned = streams.pinned_empty(tuple(made.shape), made.stride(), made.dtype)
        if getattr(func, "__name__", "") != "empty":
            streams.raw_copy(pinned, made)
        return pinned
    result = func(*args, **kwargs)
    if is_cuda and isinstance(result, Tensor):
        result._rehearsed_on_cuda = True  # type: ignore[attr-defined]
    return result


def _to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Fake `tensor.to`: always copy. A copy out of pinned memory is deferred."""
    named = [value for value in (*args[1:2], kwargs.get("device")) if _is_cuda(value)]
    if not named:
        return func(*args, **kwargs)
    source = args[0]
    non_blocking = kwargs.pop("non_blocking", False) or (
        len(args) > 2 and args[-1] is True and isinstance(args[-1], bool)
    )
    dtype = next((v for v in (*args[1:], kwargs.get("dtype")) if isinstance(v, torch.dtype)), None)
    if non_blocking and streams.is_pinned(source) and dtype in (None, source.dtype):
        target = torch.empty_like(source, pin_memory=False)
        streams.submit_copy(target, source)
    else:
        if getattr(source, "_rehearsed_on_host", False):
            _host_write("a copy out of memory that is not pinned")
        layout = {key: kwargs[key] for key in ("memory_format",) if key in kwargs}
        target = source.to(dtype=dtype or source.dtype, copy=True, **layout)
    target._rehearsed_on_cuda = True  # type: ignore[attr-defined]
    return target


def _cuda(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _is_cuda("cuda")
    return args[0].clone()


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    non_blocking = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2])
    if (
        non_blocking
        and isinstance(source, Tensor)
        and (streams.is_pinned(source) or streams.is_pinned(target))
        and not target.requires_grad
    ):
        streams.submit_copy(target, source)
        return target
    streams.current_queue().run_copies()
    return func(*args, **kwargs)


def _pin(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensor = args[0]
    if getattr(tensor, "_rehearsed_on_cuda", False):
        raise CudaError("cannot pin 'torch.cuda.Tensor' only dense CPU tensors can be pinned")
    if streams.is_pinned(tensor):
        return tensor
    pinned = streams.pinned_empty(tuple(tensor.shape), tensor.stride(), tensor.dtype)
    streams.raw_copy(pinned, tensor)
    return pinned


HANDLERS: dict[str, Callable[..., Any]] = {
    "to": _to,
    "cuda": _cuda,
    "copy_": _copy,
    "pin_memory": _pin,
    "is_pinned": lambda func, args, kwargs: streams.is_pinned(args[0]),
    "record_stream": lambda func, args, kwargs: None,
}


def _is_cuda(value: Any) -> bool:
    """Return True if a value names a GPU. Raises CudaError if the machine lacks this GPU."""
    if isinstance(value, str):
        if not value.startswith("cuda"):
            return False
    elif not isinstance(value, torch.device):
        return False
    device = torch.device(value)
    if device.type != "cuda":
        return False
    if (device.index or 0) >= len(machine.visible()):
        raise CudaError("CUDA error: invalid device ordinal")
    _process.initialized = True
    return True


def _to_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True if a call of `to` names the string "cpu", and so waits for the GPU.

    A device object does not count: it may be the device of a tensor of the fake GPU, which is "cpu".
    """
    return "cpu" in (*args[1:2], kwargs.get("device")) and not kwargs.get("non_blocking", False)


def _host_read(name: str, tensor: Any, queue: streams.Queue) -> None:
    """Let the host wait for the current stream, unless the tensor is in pinned host memory."""
    if isinstance(tensor, Tensor) and queue.has_pending and streams.is_pinned(tensor):
        return
    if queue.capture is not None:
        queue.capture.refuse(name)
    _check_sync(name)
    if queue.copies:
        with streams.lock:
            for other, number in queue.clock().items():
                other.complete(number)


def _host_write(what: str) -> None:
    queue = streams.current_queue()
    if queue.capture is not None:
        queue.capture.refuse(what)
    _check_sync(what)


def _check_sync(what: str) -> None:
    if getattr(_state, "sync_error", False):
        raise CudaError(f"called a synchronizing CUDA operation: {what}")


def _check_generator(kwargs: dict[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is not None and not getattr(generator, "is_rehearsed_cuda", False):
        raise CudaError("Expected a 'cuda' device type for generator but found 'cpu'")


def _is_slice(name: str, args: tuple[Any, ...]) -> bool:
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return all(one is None or one is Ellipsis or isinstance(one, slice | int) for one in index)


class SyncWatch(TorchDispatchMode):
    """Raise an error for operations that make the host wait, also in a backward pass."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if (what := graphs.sync_of(func, args)) is not None:
            _check_sync(what)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync() -> Iterator[None]:
    """Raise CudaError if the host waits in the block, as `set_sync_debug_mode("error")` does."""
    _state.sync_error = True
    try:
        with SyncWatch():
            yield
    finally:
        _state.sync_error = False


def _from_numpy(array: Any) -> Tensor:
    made = FROM_NUMPY(array)
    made._rehearsed_on_host = True  # type: ignore[attr-defined]
    return made


class _GeneratorType(type(torch._C.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_GeneratorType):
    """Fake `torch.Generator`: a generator of a GPU draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, device="cpu")
        made.is_rehearsed_cuda = _is_cuda(device)
        return made

    def manual_seed(self, seed: int) -> "Generator":
        super().manual_seed(seed)
        return self


class Autocast(torch.autocast):
    """`torch.autocast("cuda")`, on the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def compile(
    model: Any = None, *, dynamic: bool | None = None, mode: str = "default", **_: Any
) -> Any:
    """Fake `torch.compile`, which returns the model itself. Inductor is not rehearsed."""
    if mode not in MODES:
        raise RuntimeError(f"Unrecognized mode={mode}")
    return (lambda function: function) if model is None else (lambda *args: model(*args))


class DeviceContext:
    """`torch.cuda.device`."""

    def __init__(self, device: Any) -> None:
        self._index = streams.device_index(device)

    def __enter__(self) -> None:
        self._before = streams.set_current_device(self._index)

    def __exit__(self, *_: object) -> None:
        streams.set_current_device(self._before)


def _device(device: Any = None) -> machine.CudaDevice:
    _process.initialized = True
    index = streams.device_index(device)
    if index >= len(machine.visible()):
        raise CudaError("CUDA error: invalid device ordinal")
    return machine.visible()[index]


def _set_device(device: Any) -> None:
    _device(device)
    streams.set_current_device(streams.device_index(device))


def _properties(device: Any = None) -> SimpleNamespace:
    found = _device(device)
    major, minor = found.capability
    return SimpleNamespace(
        name=found.name,
        total_memory=found.memory_bytes,
        uuid=found.uuid.removeprefix("GPU-"),
        major=major,
        minor=minor,
        multi_processor_count=132,
    )


def _needs_init(value: int) -> Callable[..., int]:
    def of_allocator(device: Any = None) -> int:
        if not _process.initialized:
            raise RuntimeError("Invalid device argument : did you call init?")
        return value

    return of_allocator


def _init() -> None:
    if not machine.visible():
        raise RuntimeError("No CUDA GPUs are available")
    _process.initialized = True


def _mem_get_info(device: Any = None) -> tuple[int, int]:
    total = _device(device).memory_bytes
    return total - 2 * RESERVED_BYTES, total


def _current_stream(device: Any = None) -> streams.Stream:
    return streams.Stream(queue=streams.current_queue(streams.device_index(device)))


def _unsupported(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("The rehearsal has no fake of this part of torch.cuda.")


CUDA: dict[str, Any] = {
    "is_available": lambda: bool(machine.visible()),
    "is_initialized": lambda: _process.initialized,
    "init": _init,
    "_lazy_init": _init,
    "device_count": lambda: len(machine.visible()),
    "current_device": streams.current_device,
    "set_device": _set_device,
    "device": DeviceContext,
    "synchronize": streams.synchronize,
    "_sleep": lambda cycles: streams.current_queue().submit(),
    "current_stream": _current_stream,
    "default_stream": lambda device=None: streams.Stream(
        queue=streams.machine.default(streams.device_index(device))
    ),
    "stream": lambda stream: stream,
    "set_stream": lambda stream: streams.set_current_queue(stream.queue),
    "Stream": streams.Stream,
    "Event": streams.Event,
    "CUDAGraph": graphs.CUDAGraph,
    "graph": graphs.graph,
    "graph_pool_handle": lambda: (0, 0),
    "make_graphed_callables": _unsupported,
    "is_current_stream_capturing": lambda: streams.current_queue().capture is not None,
    "mem_get_info": _mem_get_info,
    "memory_allocated": _needs_init(RESERVED_BYTES // 2),
    "max_memory_allocated": _needs_init(RESERVED_BYTES // 2),
    "memory_reserved": _needs_init(RESERVED_BYTES),
    "max_memory_reserved": _needs_init(RESERVED_BYTES),
    "reset_peak_memory_stats": _needs_init(0),
    "empty_cache": lambda: None,
    "memory_stats": _unsupported,
    "get_device_name": lambda device=None: _device(device).name,
    "get_device_capability": lambda device=None: _device(device).capability,
    "get_device_properties": _properties,
    "is_bf16_supported": lambda including_emulation=True: _device().capability >= (8, 0),
    "manual_seed": lambda seed: None,  # the CPU's generator draws for both
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
    "set_sync_debug_mode": _unsupported,
}

MISSING = object()  # value of what a torch for CPUs only does not have
_installed: list[tuple[Any, str, Any]] = []
_modes: list[TorchFunctionMode] = []


def install(*, map_devices: bool = True) -> None:
    """Replace torch.cuda in this process. Devices are mapped in this thread and in later ones."""
    assert not _installed, "the rehearsal is installed already"
    streams.machine.__init__()  # type: ignore[misc]
    graphs.graph.default_capture_stream = None
    _process.initialized = False
    for name, fake in CUDA.items():
        _replace(torch.cuda, name, fake)
    _replace(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    _replace(torch, "compile", compile)
    _replace(torch, "Generator", Generator)
    if not map_devices:
        return
    _replace(torch, "autocast", Autocast)
    _replace(torch, "from_numpy", _from_numpy)
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def with_mode(thread: threading.Thread) -> None:
        with OnCpu():
            bootstrap(thread)

    _replace(threading.Thread, "_bootstrap_inner", with_mode)
    mode = OnCpu()
    mode.__enter__()
    _modes.append(mode)


def uninstall() -> list[str]:
    """Undo `install`; return the faults that were found since."""
    while _modes:
        _modes.pop().__exit__(None, None, None)
    while _installed:
        owner, name, value = _installed.pop()
        if value is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
    faults = streams.machine.faults
    streams.machine.__init__()  # type: ignore[misc]
    return faults


def _replace(owner: Any, name: str, fake: Any) -> None:
    _installed.append((owner, name, getattr(owner, name, MISSING)))
    setattr(owner, name, fake)
