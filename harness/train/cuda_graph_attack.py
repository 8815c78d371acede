"""The attack as one CUDA graph: one call starts the kernels of all its passes, and the GPU never waits for Python."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 3  # before a capture, as torch asks for: libraries choose kernels and take memory

Attack = Callable[[Tensor, Tensor], Tensor]  # uint8 images, labels -> float images in [0, 1]


class CapturedAttack:
    """Stands in for an attack on batches of the usual sizes; others run as they are.

    A graph remembers addresses: batches are copied to where it looks, weights must change in place (optimizers do), and the
    images that it returns hold until the next call.
    """

    def __init__(
        self,
        attack: Attack,
        generator: torch.Generator,
        zero_gradients: Tensor,
        sizes: frozenset[int],
    ) -> None:
        """generator, zero_gradients: what the attack draws from and counts in. sizes: of the batches, or parts of batches."""
        self._attack, self._generator, self._zero_gradients, self._sizes = (
            attack,
            generator,
            zero_gradients,
            sizes,
        )
        self._graphs: dict[
            tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]
        ] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """images: uint8 [B, 3, R, R]; labels: int64 [B] or int8 [B, K]; float32 images of higher loss."""
        if len(images) not in self._sizes:
            return self._attack(images, labels)
        shape = tuple(images.shape)
        if shape not in self._graphs:
            if any(
                known[-1] != shape[-1] for known in self._graphs
            ):  # of a resolution that is over
                self._graphs.clear()
            self._graphs[shape] = self._capture(images, labels)
        graph, its_images, its_labels, attacked = self._graphs[shape]
        its_images.copy_(images)
        its_labels.copy_(labels)
        graph.replay()
        return attacked

    def _capture(
        self, images: Tensor, labels: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        """The graph, where it reads images and labels, and where it leaves what comes out. Random numbers and counts stay."""
        images, labels = images.clone(), labels.clone()
        random, counted = self._generator.get_state(), self._zero_gradients.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._attack(images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        self._generator.set_state(random)
        self._zero_gradients.copy_(counted)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        # By default what the loader's threads ask of CUDA meanwhile, such as pinned memory, fails, and the capture with it.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            attacked = self._attack(images, labels)
        return graph, images, labels, attacked
