"""A fake CUDAGraph: it records the operations of a capture, and replays them into the same storage.

On a GPU, a capture computes nothing. To imitate this, all writes of the recorded operations are
undone when the capture ends, results are NaN until the first replay, and reading a value on the
host raises an error.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tests.rehearsal import streams
from tests.rehearsal.streams import CudaError

# Operations that need values on the host, for their result or its shape.
NEED_VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


def sync_of(func: Any, args: tuple[Any, ...]) -> str | None:
    """Return the operation's name if it makes the host wait for the GPU, else None."""
    name = func.overloadpacket.__name__
    if name in NEED_VALUES:
        return str(name)
    if name in BY_INDEX and any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    ):
        return f"{name} by a boolean mask"
    return None


class Recorder(TorchDispatchMode):
    """Record each operation with its arguments and results."""

    def __init__(self, graph: "CUDAGraph") -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._graph.record(func, args, kwargs or {})


class CUDAGraph:
    """Fake `torch.cuda.CUDAGraph`, with the methods that captures in one stream need."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._generators: list[torch.Generator] = []
        self._recorded: list[tuple[Any, Any, Any, list[Tensor | None]]] | None = None
        self._recorder: Recorder | None = None
        self._invalid = ""
        self.thread, self.error_mode = 0, "global"

    def register_generator_state(self, generator: torch.Generator) -> None:
        if self._recorder is not None:
            raise CudaError("A generator must be registered before the capture begins.")
        self._generators.append(generator)

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        queue = streams.current_queue()
        if queue is streams.machine.default(queue.device):
            raise CudaError("CUDA graphs must be captured on a non-default stream.")
        if queue.capture is not None:
            raise CudaError("CUDA error: the stream is already capturing")
        if self._recorded is not None:
            raise CudaError("This CUDAGraph instance already owns a captured graph.")
        self._queue, self.thread = queue, threading.get_ident()
        self.error_mode, self._invalid = capture_error_mode, ""
        self._recorded, self._saved = [], {}
        self._own: dict[int, Tensor] = {}  # storages that were allocated during the capture
        self._random = [
            (generator, generator.get_state())
            for generator in (torch.default_generator, *self._generators)
        ]
        self._known = {generator._cdata for generator, _ in self._random}
        queue.capture = self
        self._recorder = Recorder(self)
        self._recorder.__enter__()

    def capture_end(self) -> None:
        assert self._recorder is not None, "capture_end() without capture_begin()"
        self._recorder.__exit__(None, None, None)
        self._recorder = None
        self._queue.capture = None
        for generator, state in self._random:
            generator.set_state(state)
        with _plainly():
            for tensor, before in self._saved.values():
                tensor.copy_(before)
            for tensor in self._own.values():
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))
        if self._invalid:
            self._recorded = None
            raise CudaError(f"CUDA error: the capture is invalid: {self._invalid}")

    def replay(self) -> None:
        if self._recorded is None:
            raise CudaError("Called CUDAGraph::replay without a preceding successful capture.")
        queue = streams.current_queue()
        if queue.has_pending:
            queue.run_copies()
        queue.submit()
        with _plainly():
            for func, args, kwargs, kept in self._recorded:
                results = tree_flatten(func(*args, **kwargs))[0]
                for result, target in zip(results, kept, strict=True):
                    if target is not None:
                        target.copy_(result)

    def reset(self) -> None:
        self._recorded = None

    def pool(self) -> tuple[int, int]:
        return (0, id(self))

    def invalidate(self, why: str) -> None:
        self._invalid = self._invalid or why

    def check_thread(self) -> None:
        """Raise CudaError if another thread uses the stream that this graph captures."""
        if threading.get_ident() != self.thread:
            self.invalidate("another thread used the capturing stream")
            raise CudaError("CUDA error: operation would join a capture of another thread")

    def refuse(self, what: str) -> None:
        self.invalidate(what)
        raise CudaError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run and record an operation of the capture. Raises CudaError if CUDA would refuse it."""
        assert self._recorded is not None
        if (what := sync_of(func, args)) is not None:
            self.refuse(what)
        for value in tree_flatten((args, kwargs))[0]:
            if isinstance(value, torch.Generator) and value._cdata not in self._known:
                self.refuse("an unregistered generator")
        with _plainly():
            written = _written(func, args, kwargs)
            for tensor in written:
                self._save(tensor)
            results = func(*args, **kwargs)
            args, kwargs = tree_map(_alias, (args, kwargs))
            kept: list[Tensor | None] = []
            aliases = any(value.alias_info is not None for value in func._schema.returns)
            for result in tree_flatten(results)[0]:
                is_new = isinstance(result, Tensor) and not aliases
                kept.append(_alias(result) if is_new else None)
                if is_new:
                    self._own[_storage(result)] = _alias(result)
            self._recorded.append((func, args, kwargs, kept))
        return results

    def _save(self, tensor: Tensor) -> None:
        key = _storage(tensor)
        if key not in self._own and key not in self._saved:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._saved[key] = (whole, whole.clone())


class graph:
    """`torch.cuda.graph`."""

    default_capture_stream: streams.Stream | None = None

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: streams.Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        if stream is None:
            if graph.default_capture_stream is None:
                graph.default_capture_stream = streams.Stream()
            stream = graph.default_capture_stream
        self._graph, self._stream, self._error_mode = cuda_graph, stream, capture_error_mode

    def __enter__(self) -> None:
        streams.synchronize()
        self._stream.__enter__()
        try:
            self._graph.capture_begin(capture_error_mode=self._error_mode)
        except BaseException:
            self._stream.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._graph.capture_end()
        finally:
            self._stream.__exit__()


@contextmanager
def _plainly() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def _alias(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments of an operation that it changes in place."""
    written: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(args[number] if number < len(args) else kwargs.get(argument.name))
    if "batch_norm" in func.overloadpacket.__name__ and "backward" not in str(func):
        written += args[3:5]  # the schemas of some overloads hide that statistics are updated
    return [tensor for tensor in tree_flatten(written)[0] if isinstance(tensor, Tensor)]
