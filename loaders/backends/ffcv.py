"""FFCV's pipeline with one operation of ours: decode, crop, resize and flip in one pass, seeded per sample.

FFCV gives the graph of operations, the batch slots (pinned where there is a GPU), the copy to the device and the thread
that works ahead. Its `Loader` class is not used, for what its constructor does: compile for 0.3 s, walk the index in
Python loops (seconds for ImageNet), and set torch's thread count for all of the process. `FfcvLoader` instead has the
attributes that FFCV's EpochIterator reads from a loader.
"""

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch

from loaders.augment import Crops, choose_crops
from loaders.backend import Batch, Loader
from loaders.decode import BatchDecoder
from loaders.epoch import FfcvEpoch
from loaders.ffcv_parts import (
    LIBRARY,
    AllocationQuery,
    Graph,
    MemoryContext,
    Operation,
    PipelineSpec,
    State,
    fields,
    look_for_gpus,
    transforms,
)
from loaders.normalize import conversion, lookup_table
from loaders.plan import LoaderPlan
from loaders.preflight import free_memory_bytes
from loaders.reader import Samples, open_samples
from writers.errors import UserError

_CROPS_AT_ONCE = 4096  # samples whose crops are drawn together


def open_loader(plan: LoaderPlan) -> "FfcvLoader":
    return FfcvLoader(plan, open_samples(plan))


class FfcvLoader(Loader):
    """Also what FFCV's EpochIterator takes for its loader."""

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        super().__init__(plan, samples)
        look_for_gpus()
        self._process = os.getpid()
        self._batch_decoder = BatchDecoder(
            samples,
            plan.num_threads,
            LIBRARY,
            table=lookup_table(plan),
            conversion=conversion(plan),
            scattered=_reads_scattered(plan, samples),
        )
        self._images = DecodeImages(plan, samples, self._batch_decoder, self.skipped)
        self._running: Callable[[], FfcvEpoch | None] = lambda: None
        self.first_slot = 0  # the slot that the next epoch fills first

        # The rest is what FFCV's EpochIterator reads.
        self.device = _numbered(torch.device(plan.device))
        self.batch_size, self.batches_ahead = plan.share, plan.batches_ahead
        to_tensor = [transforms.ToTensor()] + (
            [] if self.device.type == "cpu" else [transforms.ToDevice(self.device)]
        )
        self.graph = SlotKeepingGraph(
            {
                "image": PipelineSpec(
                    "image",
                    decoder=self._images,
                    transforms=[*to_tensor, transforms.ToTorchImage()],
                ),
                "label": PipelineSpec("label", decoder=LookUpLabels(samples), transforms=to_tensor),
            }
        )
        self.code = self.graph.generate_code()
        self.reader = SimpleNamespace(metadata=self.graph.metadata)
        self.memory_manager = SimpleNamespace(schedule_epoch=lambda batches: NoFile())

    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> FfcvEpoch:
        order = self.samples.order(self.plan, epoch, start_batch)
        if os.getpid() != self._process:  # the decoder's threads have stayed behind
            raise RuntimeError(
                "This loader was opened in another process. Open one in the process that reads from it."
            )
        self._end_running()
        self._images.start(epoch, order)
        self._images.resolution = resolution or self.plan.resolution
        running = FfcvEpoch(self, order)
        self._running = weakref.ref(running)  # weak: an epoch that nobody holds any more shall end
        return running

    def close(self) -> None:
        self._end_running()
        self._batch_decoder.close()
        self.graph.drop_slots()

    def arranged(self, batch: Batch) -> Batch:
        """The pipeline's batch as the plan has it: with several crops an image, [B, k, 3, R, R]."""
        images, labels = batch
        if self.plan.crops_per_image > 1:  # [B, 3, k R, R]
            images = images.unflatten(2, (self.plan.crops_per_image, -1)).transpose(1, 2)
        return images, labels

    def damaged(self) -> dict[int, UserError]:
        """Rows of the batch decoded last that are to be left out, and why. For the epoch's thread, which decodes."""
        return self._images.damaged

    def ask_for(self, batches: list[np.ndarray]) -> None:
        """Have the system read these batches' images. For the epoch's thread, which asks while it decodes the one before."""
        for positions in batches:
            self._batch_decoder.ask_for(positions)

    def _end_running(self) -> None:
        if (running := self._running()) is not None:
            running.close()


class DecodeImages(Operation):
    """Positions of samples -> [B, R, R, 3] of the plan's dtype. `start` comes before an epoch; `resolution` may be set then."""

    def __init__(
        self,
        plan: LoaderPlan,
        samples: Samples,
        batch_decoder: BatchDecoder,
        skipped: dict[int, UserError],
    ) -> None:
        super().__init__()
        self.resolution = plan.resolution
        self.start(0, np.empty(0, np.int64))
        self.damaged: dict[int, UserError] = {}  # by row of the batch decoded last
        self._skipped = skipped
        self._plan, self._samples, self._batch_decoder = plan, samples, batch_decoder

    def start(self, epoch: int, order: np.ndarray) -> None:
        """The next batches are those of this epoch. order: all of its positions, int64."""
        self._epoch, self._order = epoch, order
        self._crops, self._crops_begin, self._num_taken = Crops.none(), 0, 0

    def _crops_of(self, positions: np.ndarray) -> Crops:
        """The batch's crops. Many batches' are drawn at once: numpy's calls take longer than the draws of one batch."""
        begin, end = self._num_taken, self._num_taken + len(positions)
        if end > self._crops_begin + len(self._crops.flips) // self._plan.crops_per_image:
            self._crops = self._chosen(
                self._order[begin : begin + max(_CROPS_AT_ONCE, len(positions))]
            )
            self._crops_begin = begin
        if not np.array_equal(self._order[begin:end], positions):
            return self._chosen(positions)  # a batch once more, without its damaged samples
        self._num_taken = end
        per_image = self._plan.crops_per_image
        batch = slice(
            (begin - self._crops_begin) * per_image, (end - self._crops_begin) * per_image
        )
        return Crops(self._crops.boxes[batch], self._crops.flips[batch])

    def _chosen(self, positions: np.ndarray) -> Crops:
        samples = self._samples
        return choose_crops(
            self._plan,
            self._epoch,
            samples.ids[positions],
            samples.widths[positions],
            samples.heights[positions],
        )

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        # The crops of an image are one below the other: FFCV's operations know images of three axes.
        height = self._plan.crops_per_image * self.resolution
        shape, dtype = (height, self.resolution, 3), np.dtype(self._plan.dtype)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(
            shape, dtype
        )

    def generate_code(self) -> Callable:
        def decode(
            positions: np.ndarray, slot: np.ndarray, metadata: None, storage_state: None
        ) -> np.ndarray:
            samples = self._samples
            crops = self._crops_of(positions)
            num_crops, resolution = self._plan.crops_per_image, self.resolution
            crops_of_each = slot.reshape(len(slot), num_crops, resolution, resolution, 3)
            damaged = self._batch_decoder.decode(positions, crops, crops_of_each)
            if damaged and self._plan.on_corrupt == "raise":
                raise next(iter(damaged.values()))
            self.damaged = damaged
            self._skipped.update(
                {int(samples.indices[positions[row]]): error for row, error in damaged.items()}
            )
            return slot

        return decode


class LookUpLabels(Operation):
    """Positions of samples -> int64 [B], or int8 [B, K] where an image has many labels.

    FFCV's own decoders compile, read labels from the file, and give [B, 1] for integers.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self._labels = samples.labels

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = self._labels.shape[1:], self._labels.dtype
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(
            shape, dtype
        )

    def generate_code(self) -> Callable:
        def look_up(
            positions: np.ndarray, slot: np.ndarray, metadata: None, storage_state: None
        ) -> np.ndarray:
            return np.take(self._labels, positions, axis=0, out=slot)

        return look_up


class SlotKeepingGraph(Graph):
    """FFCV's graph, which does not compile our operations, and keeps its slots from one epoch to the next."""

    def __init__(self, pipelines: dict[str, Any]) -> None:
        # Neither metadata nor a function that reads: our decoders read the file themselves.
        super().__init__(
            pipelines,
            {"image": fields.RGBImageField(), "label": fields.IntField()},
            {"image": 0, "label": 1},
            metadata={"f0": None, "f1": None},
            memory_read=None,
        )
        self._wanted: Any = None
        self._slots: Any = None

    def generate_code(self) -> tuple[list, list]:
        return self.codegen_all(self.collect_requirements()[1])

    def codegen_stage(self, stage: Any, s_ix: int, *rest: Any) -> tuple[Callable, list]:
        # FFCV compiles the functions of even stages, in every process. Ours call a kernel that is kept on disk.
        return super().codegen_stage(stage, 2 * s_ix + 1, *rest)

    def allocate_memory(self, batch_size: int, num_slots: int) -> Any:
        # FFCV asks at every epoch; pinning gigabytes anew takes seconds (libffcv/ffcv#365).
        wanted = batch_size, num_slots, self.collect_requirements()[0]
        if wanted != self._wanted:
            self.drop_slots()
            self._slots = super().allocate_memory(batch_size, num_slots)
            self._wanted = wanted
        return self._slots

    def drop_slots(self) -> None:
        self._wanted = self._slots = None


def _reads_scattered(plan: LoaderPlan, samples: Samples) -> bool:
    """Whether what the system would read around an image is out of memory again before its turn comes, or is not asked for."""
    if samples.path.stat().st_size <= free_memory_bytes() / 2:
        return False
    spanned = int((samples.offsets + samples.sizes).max() - samples.offsets.min())
    return plan.order == "random" or int(samples.sizes.sum()) < spanned / 2


def _numbered(device: torch.device) -> torch.device:
    """`cuda` as the GPU that is current here: each thread has a current one of its own."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class NoFile(MemoryContext):
    """FFCV's handle on the file, which our decoders do not use."""

    state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        return None
