"""Choose how to compile the training step, by timing steps on noise before training."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness.train import compilation
from harness.train.learner import Learner
from harness.train.mode_trials import FirstRun, free_memory_of_trials, time_step, try_modes
from harness.train.records import CompileMeasurement
from harness.train.step import TrainStep
from loaders.augmentations import Augmentations
from loaders.augmentations.batch import Stream, augment


def noise_batch(
    batch_size: int, resolution: int, num_classes: int, device: str
) -> tuple[Tensor, Tensor]:
    """Return a batch of noise with the shapes and types of a loader's batch.

    Each call returns the same values.

    Returns:
        Images, uint8 [batch_size, 3, resolution, resolution] in channels_last, and labels,
        int64 [batch_size].
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (batch_size, resolution, resolution, 3), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(batch_size) % num_classes
    return images.to(device).permute(0, 3, 1, 2), labels.to(device)


def augmented_step(
    learner: Learner,
    batch: tuple[Tensor, Tensor],
    augmentations: Augmentations | None,
    num_classes: int,
) -> Callable[[], None]:
    """Return a function that augments the batch with new random numbers and trains on it.

    Args:
        learner: Learner whose `train_batch` the function calls.
        batch: Images and labels, as `noise_batch` returns them.
        augmentations: Augmentations of each call; None trains on the batch unchanged.
        num_classes: Number of classes of the labels.
    """
    if augmentations is None:
        return lambda: learner.train_batch(*batch)
    ids, epochs = np.arange(len(batch[1]), dtype=np.uint64), count()

    def run_step() -> None:
        stream = Stream(0, next(epochs), ids)
        learner.train_batch(*augment(*batch, augmentations, stream, num_classes))

    return run_step


@contextmanager
def restore_after(learner: TrainStep, device: str | torch.device) -> Iterator[None]:
    """Restore the learner and torch's random state when the block ends.

    The learner keeps the compile mode and the number of micro-batches that the block has set. Steps
    in the block do not communicate with other ranks: if one rank runs out of memory, the others
    must not wait for it.
    """
    saved = _copy_to_cpu(learner.state_dict())
    fork_rng = torch.random.fork_rng([device] if torch.device(device).type == "cuda" else [])
    with fork_rng, learner.without_ddp():
        try:
            yield
        finally:
            _restore(learner, saved)


def _restore(learner: TrainStep, saved: dict[str, Any]) -> None:
    """Load a saved state, except the compile mode and the number of micro-batches.

    Loads a copy, because torch's optimizers keep the loaded tensors and later steps change them.
    """
    kept = {
        "compile_mode": learner.compile_mode,
        "num_micro_batches": learner.num_micro_batches,
    }
    learner.load_state_dict({**_copy_to_cpu(saved), **kept})


def choose_compile_mode(
    learner: TrainStep,
    batch: tuple[Tensor, Tensor],
    setting: Literal["off", "auto", "on"],
    device: str,
    excluded: Collection[str] = (),
    exclude: Callable[[str, str], None] = lambda mode, reason: None,
) -> CompileMeasurement:
    """Choose and set the learner's compile mode.

    `auto` times the modes that `compile_modes` lists and takes the fastest. These are eager and
    compiled, and on a GPU also the modes with CUDA graphs of the whole model or of the attack. A
    mode is skipped if it fails, runs out of memory, or if its first step differs from the eager
    step. Compiled results differ from eager results in the last bits. So with `auto`, results of
    two machines may differ in these bits.

    Args:
        learner: Training step whose mode is set.
        batch: Images, uint8 [B, 3, R, R], and labels, int64 [B], of the size to compile for.
        setting: `compile` in a recipe: "off" sets the eager mode, "on" the mode `compiled`.
        device: Device of the learner.
        excluded: Modes that are not tried.
        exclude: Called with the failed mode and the reason before CaptureFailedError is raised.

    Returns:
        The chosen mode, and for each tried mode its times, or the reason why it failed; see
        `try_modes`. With the setting `off`, only `chosen`, which is eager.

    Raises:
        UserError: The setting is `on`, and compilation failed.
        CaptureFailedError: A mode failed and left the GPU unusable for this process.
    """
    if setting == "off":
        return {"chosen": "eager"}
    # Graphs of earlier stages of this process must not influence the choice.
    compilation.reset()
    on_gpu = torch.device(device).type == "cuda"
    modes = compile_modes(on_gpu, learner.is_attacked, learner.num_micro_batches)
    with restore_after(learner, device):
        saved = _copy_to_cpu(learner.state_dict())

        def use(mode: str) -> None:
            _restore(learner, saved)
            learner.compile(mode, len(batch[1]))

        def first() -> FirstRun:
            run = _first_step(learner, batch, device)
            if not (on_gpu and compilation.is_whole_graph(learner.compile_mode)):
                return run
            # torch warms up in the first step and records the graphs in the second. The third step
            # replays them, so it is the one to compare.
            learner.train_batch(*batch)
            _restore(learner, saved)
            replayed = _first_step(learner, batch, device)
            return FirstRun(run.seconds, replayed.loss, replayed.length)

        measured = try_modes(
            modes,
            setting,
            device,
            use=use,
            first=first,
            again=lambda: time_step(lambda: learner.train_batch(*batch), device),
            excluded=excluded,
            exclude=exclude,
        )
        _release(learner, modes, measured["chosen"], on_gpu)
        learner.compile(measured["chosen"], len(batch[1]))
    free_memory_of_trials(device)
    return measured


def _first_step(learner: TrainStep, batch: tuple[Tensor, Tensor], device: str) -> FirstRun:
    """Take a step; measure its time, loss and length of the update. Resets the learner's totals."""
    trained = [value for value in learner.model.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in trained]
    seconds = time_step(lambda: learner.train_batch(*batch), device)
    changes = [value.detach() - old for value, old in zip(trained, before, strict=True)]
    length = torch.stack(torch._foreach_norm(changes)).norm()
    return FirstRun(seconds, learner.totals()["loss"], float(length))


def _release(learner: TrainStep, modes: Collection[str], chosen: str, on_gpu: bool) -> None:
    """Free the graphs of the modes that were not chosen.

    Graphs of whole models are global state of torch, so they can only be freed together with all
    compiled code. torch's cache on disk makes it cheap to compile the chosen mode again.
    """
    learner.compile("eager", 0)
    whole = set(filter(compilation.is_whole_graph, modes))
    if on_gpu and whole and chosen not in whole:
        compilation.reset()


def compile_modes(on_gpu: bool, is_attacked: bool, num_micro_batches: int = 1) -> list[str]:
    """Return the keys of `compilation.MODES` to try, in this order; eager is the first.

    Modes that do not compile come first, because compiling takes minutes. CUDA graphs of the whole
    model come last, because only `compilation.reset` frees their memory. They are left out if
    gradients are accumulated: torch then raises or computes wrong gradients (pytorch#96693,
    pytorch#169545).

    Args:
        on_gpu: False leaves out all modes with CUDA graphs.
        is_attacked: False leaves out modes that capture an attack.
        num_micro_batches: number of parts whose gradients are accumulated.
    """
    modes = {
        name: (compilation.is_whole_graph(name), mode.torch_mode is not None)
        for name, mode in compilation.MODES.items()
        if (on_gpu or not compilation.uses_graphs(name))
        and (is_attacked or not mode.in_cuda_graph)
        and (num_micro_batches == 1 or not compilation.is_whole_graph(name))
    }
    return sorted(modes, key=modes.__getitem__)


def _copy_to_cpu(state: Any) -> Any:
    """Return a copy of a state, with its tensors on the CPU, that shares no memory with it."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copy_to_cpu(value) for key, value in state.items()}
    return (
        type(state)(_copy_to_cpu(value) for value in state)
        if isinstance(state, list | tuple)
        else state
    )
