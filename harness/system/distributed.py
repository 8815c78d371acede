"""Several processes that train one model: who this one is, and what they tell each other.

`torchrun --nproc-per-node N -m harness.worker STAGE_DIR` starts them; this is the one place that reads what torchrun puts
into the environment. A batch is that of all processes together (`LoaderPlan.rank`, `world_size`); the first process has the
stage's folder to itself. What they agree on goes over gloo, by the CPU, so that no step waits for a GPU; gradients go over
NCCL where there are GPUs. With one process everything here is what it is given, and torch is not imported.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT_S = 600.0  # a process that the others wait for longer is taken for dead; compiling a model takes minutes
# How torch says that another process is gone; NCCL has a class for it.
_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Broken pipe",
    "Connection refused",
    "NCCL communicator was aborted",
    "ncclRemoteError",
)


class ProcessLost(Exception):
    """Another process of the group has ended, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine: the number of its GPU
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """This process's own, where a GPU is asked for."""
        return (
            f"cuda:{self.local_rank}"
            if self.world_size > 1 and device.startswith("cuda")
            else device
        )

    def from_first(self, value: Any) -> Any:
        """The first process's value, in all: tensors, which arrive on the CPU, and plain values."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        box = [_packed(value) if self.is_first else None]
        dist.broadcast_object_list(box, device=_cpu())
        return _unpacked(box[0])

    def gathered(self, value: Any) -> list[Any]:
        """Everyone's value, in the order of ranks, in all; likewise tensors and plain values."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, _packed(value))
        return [_unpacked(box) for box in boxes]

    def add_up(self, *tensors: "Tensor") -> None:
        """Replace each, in place, by the sum over the processes."""
        if self.world_size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)


ALONE = Ranks()


class Votes:
    """Wishes that one process has and all must act on at the same step: to stop, to save."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._on_its_way: tuple[Any, Tensor] | None = None

    def cast(self, *wishes: bool) -> tuple[bool, ...]:
        """Of each wish, whether any process had it at the last call; with one process, at this one.

        Every process calls it equally often. The answer is awaited a call later, so that asking takes no time.
        """
        if self._ranks.world_size == 1:
            return wishes
        import torch
        import torch.distributed as dist

        earlier = self._arrived(len(wishes))
        votes = torch.tensor(wishes, dtype=torch.int32)
        self._on_its_way = dist.all_reduce(votes, dist.ReduceOp.MAX, async_op=True), votes
        # What is granted must not be on its way once more: nobody wishes it any longer.
        return self._with_arrived(earlier) if any(earlier) else earlier

    def count(self, *wishes: bool) -> tuple[bool, ...]:
        """The same, of this call and of the last together, at once."""
        return self._with_arrived(self.cast(*wishes))

    def _arrived(self, num_wishes: int) -> tuple[bool, ...]:
        if self._on_its_way is None:
            return (False,) * num_wishes
        work, votes = self._on_its_way
        self._on_its_way = None
        work.wait()
        return tuple(bool(vote) for vote in votes)

    def _with_arrived(self, earlier: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(map(any, zip(earlier, self._arrived(len(earlier)), strict=True)))


class SharedGradients:
    """A model's forward pass by torch's DistributedDataParallel: behind each backward pass, gradients are the group's mean.

    Only what goes through here is; an attack calls the model itself, and its input gradients are nobody else's business.
    """

    def __init__(self, model: "nn.Module", ranks: Ranks) -> None:
        import torch
        from torch import nn

        class Pass(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(
                self, images: "Tensor", logits_of: Callable[["Tensor"], "Tensor"]
            ) -> "Tensor":
                return logits_of(images)

        self._ranks = ranks
        # Buffers are not DDP's: it would hand out the first process's statistics, and only before the next forward pass.
        with (
            warnings.catch_warnings()
        ):  # newer torch has a second name for broadcast_buffers, which older ones lack
            warnings.simplefilter("ignore", FutureWarning)
            self._replica = nn.parallel.DistributedDataParallel(
                Pass(), broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.no_sync = self._replica.no_sync
        self._statistics = (
            []
            if _is_synchronised(model)
            else [tensor for tensor in model.buffers() if tensor.is_floating_point()]
        )
        self._sizes = [tensor.numel() for tensor in self._statistics]
        self._count = torch.zeros((), device=next(model.parameters()).device)

    def __call__(self, images: "Tensor", logits_of: Callable[["Tensor"], "Tensor"]) -> "Tensor":
        """[B, K] logits of the model, or of its compiled stand-in."""
        logits: Tensor = self._replica(images, logits_of)
        return logits

    def weight(self, num_images: int) -> "Callable[[], Tensor]":
        """What to multiply the mean loss of this process's images by, so that the mean over processes is that over images:
        their share of the batch, times the number of processes. Asked for now, it is on its way until it is called."""
        import torch.distributed as dist

        self._count.fill_(num_images)
        total = self._count.clone()
        work = dist.all_reduce(total, async_op=True)

        def arrived() -> "Tensor":
            assert work is not None
            work.wait()  # on a GPU the stream waits, and not this thread
            return self._count * self._ranks.world_size / total

        return arrived

    def average_statistics(self) -> None:
        """BatchNorm's running statistics become the mean of everyone's, so that all have one model behind each step."""
        if not self._statistics:
            return
        import torch

        together = torch.cat([tensor.flatten() for tensor in self._statistics])
        self._ranks.add_up(together)
        together /= self._ranks.world_size
        parts = [
            part.view_as(tensor)
            for part, tensor in zip(together.split(self._sizes), self._statistics, strict=True)
        ]
        torch._foreach_copy_(self._statistics, parts)


def from_environment(variables: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun says; without it, one process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "WORLD_SIZE" not in variables or "RANK" not in variables:
        return ALONE
    return Ranks(
        *(int(variables.get(name, default)) for name, default in zip(names, "0101", strict=True))
    )


@contextmanager
def joined(ranks: Ranks, device: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Inside, the processes can talk. Behind an exception the group is left as it is: the others may be gone."""
    if ranks.world_size == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(ranks.device(device))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout_s)
    )
    yield
    dist.destroy_process_group()


def is_loss_of_another(error: BaseException) -> bool:
    """Whether this error says that another process of the group is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _GONE)
    )


def synchronise_batch_norm(model: "nn.Module", ranks: Ranks) -> "nn.Module":
    """The model with BatchNorm over the batch of all processes. With one process, as it is."""
    if ranks.world_size == 1:
        return model
    # torch's own conversion loses the activations that are part of timm's BatchNorms.
    if any(type(module).__module__.startswith("timm.") for module in model.modules()):
        from timm.layers import convert_sync_batchnorm
    else:
        from torch import nn

        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    synchronised: nn.Module = convert_sync_batchnorm(model)
    return synchronised


def torchrun(num_processes: int, arguments: Sequence[str], executable: str) -> list[str]:
    """The command line that runs `python -m ...` in so many processes on this machine."""
    return [
        executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
        "-m",
        *arguments,
    ]


def _is_synchronised(model: "nn.Module") -> bool:
    from torch import nn

    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def _packed(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: Any) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
