"""Capture the attack in a CUDA graph to remove per-kernel launch overhead."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.train.attack import PgdAttack

# Calls of the attack before a capture, in which libraries choose kernels and allocate memory. torch
# recommends such calls.
NUM_WARM_UP_CALLS = 3


class CaptureFailedError(RuntimeError):
    """A capture failed. The process can no longer use its GPU reliably and must be restarted."""


class CudaGraphAttack:
    """Attack that replays a CUDA graph for batches of the given sizes and runs others eagerly.

    A graph reads and writes fixed addresses. Batches are therefore copied into static buffers,
    weights must be updated in place (optimizers do), and the next call overwrites the returned
    images.
    """

    def __init__(self, attack: PgdAttack, sizes: frozenset[int]) -> None:
        """Prepare an attack that captures a graph at the first batch of each shape.

        Args:
            attack: The attack to capture.
            sizes: Batch or micro-batch sizes to capture.
        """
        self._attack, self._sizes = attack, sizes
        # Joined shapes of images and labels -> graph, static images, static labels, attacked images
        self._graphs: dict[
            tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]
        ] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the attacked images, float32 [B, 3, R, R] in [0, 1].

        Args:
            images: uint8 [B, 3, R, R].
            labels: classes, int64 [B]; several labels, int8 [B, K]; or probabilities, float32
                [B, K]. See `image_losses`.

        Raises:
            CaptureFailedError: The capture at the first batch of a shape failed.
        """
        if len(images) not in self._sizes:
            return self._attack(images, labels)
        # Labels vary in shape, too: the steps that choose the compile mode have class numbers, and
        # mixed images (MixUp) have probabilities.
        shape = (*images.shape, *labels.shape)
        if shape not in self._graphs:
            # Free the graphs of another resolution: progressive resizing does not return to it.
            if any(captured[3] != images.shape[3] for captured in self._graphs):
                self._graphs.clear()
            self._graphs[shape] = self._capture(images, labels)
        graph, static_images, static_labels, attacked = self._graphs[shape]
        static_images.copy_(images)
        static_labels.copy_(labels)
        graph.replay()
        return attacked

    def _capture(
        self, images: Tensor, labels: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        """Capture the attack for one batch shape. Warm-up calls do not change the random state."""
        attack = self._attack
        images, labels = images.clone(), labels.clone()
        random_state, count = attack.generator.get_state(), attack.zero_gradients.clone()
        stream = torch.cuda.Stream()  # loaders do not use it: theirs have another priority
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UP_CALLS):
                attack(images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        attack.generator.set_state(random_state)
        attack.zero_gradients.copy_(count)
        graph = torch.cuda.CUDAGraph()
        # Newer versions of torch register generators by themselves, and warn.
        if (register := getattr(graph, "register_generator_state", None)) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                register(attack.generator)
        # In the default mode, CUDA calls of the loader's threads, such as pinning memory, would
        # fail and abort the capture.
        try:
            with (
                _own_workspaces(),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                attacked = attack(images, labels)
        except Exception as error:  # raised by the attack, or by CUDA at the end of a capture
            raise CaptureFailedError(f"The capture of the attack failed: {error}") from error
        return graph, images, labels, attacked


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Let a graph that is captured inside the block own the workspaces of its matrix products.

    torch keeps workspaces for each stream, from one product to the next. It frees them all if
    torch.compile records a graph, and those of a stream if another graph of the stream is destroyed
    (pytorch#193402). A graph with such a workspace would then write into memory that is not its
    own. Without a workspace at its beginning, a capture allocates one in the graph's memory.
    """
    torch._C._cuda_clearCublasWorkspaces()
    yield
    torch._C._cuda_clearCublasWorkspaces()
