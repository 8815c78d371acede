"""Run FFCV's pipeline with our decoder, which decodes, crops, resizes and flips in one pass.

FFCV provides the operation graph, the batch slots (pinned if there is a GPU), the copy to the
device and the prefetch thread. Its `Loader` class is not used because of its constructor: it
compiles for 0.3 s, walks the index in Python loops (seconds for ImageNet), and sets torch's thread
count for the whole process. `FfcvLoader` provides the attributes that FFCV's EpochIterator reads
instead.
"""

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch

from loaders.backend import Batch, Loader
from loaders.crops import Crops, choose_crops
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
    transforms,
)
from loaders.normalize import conversion, lookup_table
from loaders.pinned import pinned_empty
from loaders.plan import LoaderPlan
from loaders.preflight import free_memory_bytes
from loaders.reader import Samples, open_samples
from writers.errors import UserError

CROPS_AT_ONCE = 4096  # samples whose crops are chosen together


def open_loader(plan: LoaderPlan) -> "FfcvLoader":
    """Open a loader. Raises UserError if the `.beton` file is missing or damaged."""
    return FfcvLoader(plan, open_samples(plan))


class FfcvLoader(Loader):
    """Loader that can take the place of FFCV's own Loader in its EpochIterator."""

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        super().__init__(plan, samples)
        self._process = os.getpid()
        self._batch_decoder = BatchDecoder(
            samples,
            plan.num_threads,
            LIBRARY,
            table=lookup_table(plan),
            conversion=conversion(plan),
            interpolation=plan.interpolation,
            scattered=_has_scattered_reads(plan, samples),
        )
        self._images = DecodeImages(plan, samples, self._batch_decoder, self.skipped)
        self._running: Callable[[], FfcvEpoch | None] = lambda: None
        self.first_slot = 0  # the slot that the next epoch fills first

        # Attributes that FFCV's EpochIterator reads.
        self.device = _with_index(torch.device(plan.device))
        self.batch_size, self.batches_ahead = plan.local_batch_size, plan.batches_ahead
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
            },
            on_gpu=self.device.type == "cuda",
        )
        self.code = self.graph.generate_code()
        self.reader = SimpleNamespace(metadata=self.graph.metadata)
        self.memory_manager = SimpleNamespace(schedule_epoch=lambda batches: NoFile())

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> FfcvEpoch:
        """Start an epoch; see `Loader.start`."""
        if os.getpid() != self._process:  # a fork does not inherit the decoder's threads
            raise RuntimeError(
                "This loader was opened in another process. Open one in the process that reads "
                "from it."
            )
        self._end_running()
        self._images.start(epoch, order)
        self._images.resolution = resolution
        running = FfcvEpoch(self, order)
        self._running = weakref.ref(running)  # weak: an unreferenced epoch must end
        return running

    def close(self) -> None:
        """Release all resources; see `Loader.close`."""
        self._end_running()
        self._batch_decoder.close()
        self.graph.drop_slots()

    def split_crops(self, batch: Batch) -> Batch:
        """Reshape a batch to [B, k, 3, R, R] if the plan has k > 1 crops per image."""
        images, labels = batch
        if self.plan.crops_per_image > 1:  # the batch is [B, 3, k R, R]
            images = images.unflatten(2, (self.plan.crops_per_image, -1)).transpose(1, 2)
        return images, labels

    def corrupt_rows(self) -> dict[int, UserError]:
        """Return row -> error, for the rows of the last batch that must be skipped.

        Called on the decoding thread.
        """
        return self._images.corrupt_rows

    def prefetch(self, batches: list[np.ndarray]) -> None:
        """Start reading the images of batches, each given by its samples' positions, int64 [B].

        Called on the decoding thread, one batch ahead.
        """
        for positions in batches:
            self._batch_decoder.prefetch(positions)

    def _end_running(self) -> None:
        if (running := self._running()) is not None:
            running.close()


class DecodeImages(Operation):  # type: ignore[misc]  # FFCV is untyped
    """Decode sample positions to [B, R, R, 3] of the plan's dtype.

    Call `start` before each epoch; `resolution` may be changed then.
    """

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
        self.corrupt_rows: dict[int, UserError] = {}  # row of the batch decoded last -> error
        self._skipped = skipped
        self._plan, self._samples, self._batch_decoder = plan, samples, batch_decoder

    def start(self, epoch: int, order: np.ndarray) -> None:
        """Prepare the next epoch. `order`: positions of all its samples on this rank, int64 [M]."""
        self._epoch, self._order = epoch, order
        self._crops, self._crops_begin, self._num_taken = Crops.none(), 0, 0

    def _crops_of(self, positions: np.ndarray) -> Crops:
        """Return the crops of a batch, given by its samples' positions, int64 [B].

        Crops are chosen for many batches at once, because numpy's call overhead dominates the time
        for a single batch.
        """
        begin, end = self._num_taken, self._num_taken + len(positions)
        if end > self._crops_begin + len(self._crops.flips) // self._plan.crops_per_image:
            self._crops = self._choose(
                self._order[begin : begin + max(CROPS_AT_ONCE, len(positions))]
            )
            self._crops_begin = begin
        if not np.array_equal(self._order[begin:end], positions):
            return self._choose(positions)  # the batch is decoded again without its corrupt samples
        self._num_taken = end
        per_image = self._plan.crops_per_image
        batch = slice(
            (begin - self._crops_begin) * per_image, (end - self._crops_begin) * per_image
        )
        return Crops(self._crops.boxes[batch], self._crops.flips[batch])

    def _choose(self, positions: np.ndarray) -> Crops:
        samples = self._samples
        return choose_crops(
            self._plan,
            self._epoch,
            samples.ids[positions],
            samples.widths[positions],
            samples.heights[positions],
        )

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """Declare the batch's shape and dtype to FFCV."""
        # Crops of an image are stacked vertically, because FFCV supports images of three axes only.
        height = self._plan.crops_per_image * self.resolution
        shape, dtype = (height, self.resolution, 3), np.dtype(self._plan.dtype)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(
            shape, dtype
        )

    def generate_code(self) -> Callable[..., np.ndarray]:
        """Return the function that decodes a batch into a slot."""

        def decode(
            positions: np.ndarray, slot: np.ndarray, metadata: None, storage_state: None
        ) -> np.ndarray:
            samples = self._samples
            crops = self._crops_of(positions)
            num_crops, resolution = self._plan.crops_per_image, self.resolution
            crops_of_each = slot.reshape(len(slot), num_crops, resolution, resolution, 3)
            errors = self._batch_decoder.decode(positions, crops, crops_of_each)
            if errors and self._plan.on_corrupt == "raise":
                raise next(iter(errors.values()))
            self.corrupt_rows = errors
            self._skipped.update(
                {int(samples.indices[positions[row]]): error for row, error in errors.items()}
            )
            return slot

        return decode


class LookUpLabels(Operation):  # type: ignore[misc]
    """Map sample positions to labels: int64 [B], or int8 [B, K] for multi-label files.

    FFCV's own decoders are not used: they need compilation, read labels from the file, and return
    [B, 1] for integers.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self._labels = samples.labels

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """Declare the labels' shape and dtype to FFCV."""
        shape, dtype = self._labels.shape[1:], self._labels.dtype
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(
            shape, dtype
        )

    def generate_code(self) -> Callable[..., np.ndarray]:
        """Return the function that copies labels into a slot."""

        def look_up(
            positions: np.ndarray, slot: np.ndarray, metadata: None, storage_state: None
        ) -> np.ndarray:
            return np.take(self._labels, positions, axis=0, out=slot)

        return look_up


class SlotKeepingGraph(Graph):  # type: ignore[misc]
    """FFCV graph that does not compile the loader's operations and reuses slots between epochs."""

    def __init__(self, pipelines: dict[str, Any], *, on_gpu: bool) -> None:
        # No metadata and no read function: our decoders read the file themselves.
        super().__init__(
            pipelines,
            {"image": fields.RGBImageField(), "label": fields.IntField()},
            {"image": 0, "label": 1},
            metadata={"f0": None, "f1": None},
            memory_read=None,
        )
        self._on_gpu = on_gpu
        self._wanted: Any = None
        self._slots: Any = None

    def generate_code(self) -> Any:
        """Return the functions of the pipeline, uncompiled."""
        return self.codegen_all(self.collect_requirements()[1])

    def codegen_stage(self, stage: Any, s_ix: int, *rest: Any) -> Any:
        """Generate a stage without compiling it."""
        # FFCV compiles the functions of even stages in every process, so pass an odd number: the
        # loader's functions are plain Python that calls a compiled kernel.
        return super().codegen_stage(stage, 2 * s_ix + 1, *rest)

    def allocate_memory(self, batch_size: int, num_slots: int) -> Any:
        """Return batch slots; reuses those of the last epoch if their shapes are equal."""
        # FFCV allocates new slots for every epoch, but pinning gigabytes takes seconds
        # (libffcv/ffcv#365).
        wanted = batch_size, num_slots, self.collect_requirements()[0]
        if wanted != self._wanted:
            self.drop_slots()
            self._slots = {
                kind: {
                    node: None if query is None else self._allocate(query, batch_size, num_slots)
                    for node, query in queries.items()
                }
                for kind, queries in wanted[2].items()
            }
            self._wanted = wanted
        return self._slots

    def _allocate(self, query: AllocationQuery, batch_size: int, num_slots: int) -> Any:
        """Return slots on the device, or on the host as one array, which is page-locked for a GPU.

        FFCV's own function also page-locks slots if there is no GPU, and hides failures.

        Each slot on a device is a separate tensor. Parts of one tensor would share its version
        counter: if another slot were written between a forward and its backward pass, autograd
        would see a change of the batch and refuse the backward pass.
        """
        shape = (batch_size, *query.shape)
        if isinstance(query.dtype, torch.dtype):
            return [
                torch.empty(shape, dtype=query.dtype, device=query.device) for _ in range(num_slots)
            ]
        shape = (num_slots, *shape)
        if self._on_gpu:
            return pinned_empty(shape, torch.from_numpy(np.empty(0, query.dtype)).dtype).numpy()
        return np.empty(shape, query.dtype)

    def drop_slots(self) -> None:
        """Release the slots."""
        self._wanted = self._slots = None


def _has_scattered_reads(plan: LoaderPlan, samples: Samples) -> bool:
    """Return True if read-ahead would waste reads.

    That is so if the file does not stay in memory, and the plan reads it in a scattered order or
    needs less than half of it.
    """
    if samples.path.stat().st_size <= free_memory_bytes() / 2:
        return False
    spanned = int((samples.offsets + samples.sizes).max() - samples.offsets.min())
    return plan.has_scattered_order or int(samples.sizes.sum()) < spanned / 2


def _with_index(device: torch.device) -> torch.device:
    """Add the index of the current GPU to `cuda`, because each thread has its own current GPU."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class NoFile(MemoryContext):  # type: ignore[misc]
    """Replacement of FFCV's file handle, which our decoders do not use."""

    state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        return None
