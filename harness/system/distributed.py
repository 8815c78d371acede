"""Process groups for data-parallel training: collectives, DDP, and torchrun's environment.

`torchrun --nproc-per-node N -m harness.worker STAGE_DIR` starts the processes. No other module
reads torchrun's environment variables. Batch sizes are global: each rank loads its part of a batch
(`LoaderPlan.rank`, `world_size`). Only rank 0 writes results and checkpoints. Any rank may record
in the stage's folder why it failed.

Control values are exchanged by gloo on the CPU, so that no step waits for a GPU. Gradients are
exchanged by NCCL on GPUs, or by gloo if ranks share a GPU. If there is a single process, the
collectives change nothing, and do not import torch.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# A collective fails after this time, which must be longer than another rank may need to compile.
TIMEOUT_S = 600.0
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"  # name of the loopback interface
# Fragments of torch's messages for a lost peer, in errors that are a plain RuntimeError.
_PEER_FAILURES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Broken pipe",
    "Connection refused",
    "NCCL communicator was aborted",
    "ncclRemoteError",
)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model together, and the place of this process among them.

    Attributes:
        rank: Index of this process in the group.
        world_size: Number of processes.
        local_rank: Index among the processes on this machine; also the index of this process's GPU.
        local_world_size: Number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only rank that writes results."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """Return the device of this rank; ranks share GPUs if there are more ranks than GPUs."""
        if self.world_size > 1 and device.startswith("cuda"):
            return f"cuda:{self.local_rank % (_num_gpus() or self.local_world_size)}"
        return device

    def broadcast(self, value: Any) -> Any:
        """Broadcast a value from rank 0: plain Python with or without tensors (returned on CPU)."""
        if self.world_size == 1:
            return value
        import torch
        import torch.distributed as dist

        boxes = [_serialize(value) if self.is_main else None]
        dist.broadcast_object_list(boxes, device=torch.device("cpu"))
        return _deserialize(boxes[0])

    def all_gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks. Accepts what `broadcast` accepts."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, _serialize(value))
        return [_deserialize(box) for box in boxes]

    def all_reduce_(self, *tensors: "Tensor") -> None:
        """Replace each tensor by its sum over the ranks, in place."""
        if self.world_size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)


SINGLE_PROCESS = ProcessGroup()


class AsyncFlags:
    """Asynchronous all-reduce (max) of flags on which all ranks must act at the same step.

    Used for requests to stop and to save. All ranks must make the same number of calls.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._pending: tuple[Any, Tensor] | None = None

    def reduce(self, *flags: bool) -> tuple[bool, ...]:
        """Start reducing these flags; return the result of the previous call.

        The result is one call late, so that no step waits for the network. If a flag of the
        previous call is set, this call's flags are added. A single process gets its flags at once.
        """
        if self._group.world_size == 1:
            return flags
        import torch
        import torch.distributed as dist

        previous = self._wait(len(flags))
        values = torch.tensor(flags, dtype=torch.int32)
        self._pending = dist.all_reduce(values, dist.ReduceOp.MAX, async_op=True), values
        # Ranks must act on a flag only once. If one is set, finish the pending reduction, too, so
        # that the next call does not return the flag again.
        return self._or_pending(previous) if any(previous) else previous

    def reduce_now(self, *flags: bool) -> tuple[bool, ...]:
        """Reduce these flags and those of the previous call, and wait for both."""
        return self._or_pending(self.reduce(*flags))

    def _wait(self, num_flags: int) -> tuple[bool, ...]:
        if self._pending is None:
            return (False,) * num_flags
        work, values = self._pending
        self._pending = None
        work.wait()
        return tuple(bool(value) for value in values)

    def _or_pending(self, previous: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(map(any, zip(previous, self._wait(len(previous)), strict=True)))


class DdpForward:
    """Forward pass under DistributedDataParallel; its backward pass averages gradients over ranks.

    An attack calls the model directly, because gradients with respect to images must not be
    averaged: each rank has other images.
    """

    def __init__(self, model: "nn.Module", group: ProcessGroup) -> None:
        import torch
        from torch import nn

        class CallLogits(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(
                self, images: "Tensor", logits_of: Callable[["Tensor"], "Tensor"]
            ) -> "Tensor":
                return logits_of(images)

        self._group = group
        # DDP would broadcast rank 0's buffers, and only before the next forward pass;
        # `average_statistics` averages them instead.
        with warnings.catch_warnings():
            # Newer versions of torch rename broadcast_buffers; older ones do not have the new name.
            warnings.simplefilter("ignore", FutureWarning)
            self._replica = nn.parallel.DistributedDataParallel(
                CallLogits(), broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.no_sync = self._replica.no_sync
        self._statistics = (
            []
            if _has_sync_batch_norm(model)
            else [tensor for tensor in model.buffers() if tensor.is_floating_point()]
        )
        self._sizes = [tensor.numel() for tensor in self._statistics]
        self._num_images = torch.zeros((), device=next(model.parameters()).device)

    def __call__(self, images: "Tensor", logits_of: Callable[["Tensor"], "Tensor"]) -> "Tensor":
        """Return logits_of(images), [B, K], for images [B, C, H, W].

        `logits_of` is the model or a compiled form of it.
        """
        logits: Tensor = self._replica(images, logits_of)
        return logits

    def loss_weight(self, num_images: int) -> "Callable[[Tensor], Tensor]":
        """Start computing the factor for this rank's mean loss.

        DDP averages over ranks, whose batches may differ in size. The factor
        num_images * world_size / (images of all ranks) makes the result the mean over images.

        Args:
            num_images: Number of images in this rank's part of the batch.

        Returns:
            A function that waits for the all-reduce and multiplies a loss by the factor.
        """
        import torch.distributed as dist

        self._num_images.fill_(num_images)
        total = self._num_images.clone()
        work = dist.all_reduce(total, async_op=True)

        def weigh(loss: "Tensor") -> "Tensor":
            assert work is not None
            work.wait()  # on a GPU only the stream waits
            return loss * (self._num_images * self._group.world_size / total)

        return weigh

    def average_statistics(self) -> None:
        """Average BatchNorm's running statistics over ranks, so that all have the same model."""
        if not self._statistics:
            return
        import torch

        flat = torch.cat([tensor.flatten() for tensor in self._statistics])
        self._group.all_reduce_(flat)
        flat /= self._group.world_size
        means = [
            mean.view_as(tensor)
            for mean, tensor in zip(torch.split(flat, self._sizes), self._statistics, strict=True)
        ]
        torch._foreach_copy_(self._statistics, means)


class LocalForward:
    """Replacement for `DdpForward` in a single process, and in steps that one rank tries alone."""

    def __call__(self, images: "Tensor", logits_of: Callable[["Tensor"], "Tensor"]) -> "Tensor":
        """Return logits_of(images), [B, K]."""
        return logits_of(images)

    def no_sync(self) -> AbstractContextManager[None]:
        """Do nothing: gradients are never averaged."""
        return nullcontext()

    def loss_weight(self, num_images: int) -> "Callable[[Tensor], Tensor]":
        """Return a function that returns the loss unchanged."""
        return lambda loss: loss

    def average_statistics(self) -> None:
        """Do nothing."""


def from_environment(variables: Mapping[str, str] = os.environ) -> ProcessGroup:
    """Read the group from torchrun's environment variables; SINGLE_PROCESS if they are not set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "WORLD_SIZE" not in variables or "RANK" not in variables:
        return SINGLE_PROCESS
    return ProcessGroup(
        *(int(variables.get(name, default)) for name, default in zip(names, "0101", strict=True))
    )


@contextmanager
def init_process_group(
    group: ProcessGroup, device: str, timeout_s: float = TIMEOUT_S, store: Path | None = None
) -> Iterator[None]:
    """Make collectives available inside the block.

    After an exception the group is not destroyed, because that would wait for other ranks, which
    may have ended.

    Args:
        group: processes that take part in the collectives.
        device: "cpu" or "cuda".
        timeout_s: a collective fails after this time.
        store: new file on this machine through which the processes find each other. None means
            the address and the port in torchrun's environment variables.
    """
    if group.world_size == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(group.device(device))
    # NCCL refuses two ranks on one GPU.
    has_own_gpu = on_gpu and group.local_world_size <= _num_gpus()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_own_gpu else "gloo",
        init_method=None if store is None else f"file://{store.absolute()}",
        rank=group.rank,
        world_size=group.world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    yield
    dist.destroy_process_group()


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def is_peer_failure(error: BaseException) -> bool:
    """Return True if torch raised this error because a process of the group ended or is silent."""
    import torch.distributed as dist

    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_FAILURES)
    )


def convert_sync_batch_norm(model: "nn.Module", group: ProcessGroup) -> "nn.Module":
    """Return the model with BatchNorm over the global batch; unchanged if there is one process."""
    if group.world_size == 1:
        return model
    # torch's own conversion drops the activations inside timm's BatchNorm modules.
    if any(type(module).__module__.startswith("timm.") for module in model.modules()):
        from timm.layers.norm_act import convert_sync_batchnorm
    else:
        from torch import nn

        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def torchrun_command(
    num_processes: int, arguments: Sequence[str], executable: str, rendezvous: Path
) -> list[str]:
    """Return the command that runs `python -m ARGUMENTS` in num_processes local processes.

    Use it with `torchrun_variables`. The processes find each other through files, so that torchrun
    opens no port. By default its stores listen on all interfaces, without authentication.

    Args:
        num_processes: number of processes.
        arguments: module and its arguments.
        executable: path of Python.
        rendezvous: file that torchrun creates.
    """
    return [
        executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={num_processes}",
        "--rdzv-backend=c10d",
        "--rdzv-id=stage",
        "--rdzv-conf=store_type=file",
        f"--rdzv-endpoint={rendezvous}",
        "--local-addr=127.0.0.1",
        "-m",
        *arguments,
    ]


def torchrun_variables(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for torchrun, in which collectives use the loopback interface.

    Variables with which the user chooses interfaces are kept.
    """
    defaults = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    # By default torchrun starts a store for the processes that listens on all interfaces.
    return {**defaults, **variables, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def _has_sync_batch_norm(model: "nn.Module") -> bool:
    from torch import nn

    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def _serialize(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _deserialize(data: Any) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
