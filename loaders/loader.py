"""A loader for other training code: iterate it, one epoch per `for`.

    from loaders import Loader

    loader = Loader("data/pets-all/train.beton", batch_size=256, resolution=224,
                    augment="random_resized_crop", horizontal_flip=True, order="quasi_random")
    for epoch in range(10):
        for images, labels in loader:
            ...

Parameters that `ffcv.loader.Loader` has, too, have the same names here.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypedDict, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info

from loaders import open_loader
from loaders.backend import Batch
from loaders.closed_on_exit import ClosedOnExit
from loaders.loader_arguments import device_of, subset_of
from loaders.plan import LoaderPlan, Order, whole_number
from writers import names
from writers.errors import UserError
from writers.text_names import counted

Transform = Callable[[torch.Tensor, torch.Tensor], Batch]

# Parameter of FFCV's Loader or torch's DataLoader that this loader lacks -> what to do instead.
_OF_OTHERS = {
    "pipelines": "Set augment, crop_scale, horizontal_flip, resolution, dtype, and transform.",
    "custom_fields": "Only images with labels are supported.",
    "os_cache": "Leave it out: order='quasi_random' reads a few pages of the file at a time.",
    "recompile": "Leave it out: the kernels are compiled when the package is installed.",
    "num_threads": "Use num_workers.",
    "shuffle": "Use order='random'.",
    "sampler": "Use indices, or order='weighted' with weights.",
    "batch_sampler": "Use indices and batch_size.",
    "collate_fn": "Use transform, which is called with each batch.",
    "pin_memory": "Leave it out: device='cuda' copies batches from pinned memory.",
    "prefetch_factor": "Use batches_ahead.",
    "persistent_workers": "Leave it out: the threads are kept from epoch to epoch.",
    "worker_init_fn": "Leave it out: threads have no random state; set seed.",
    "generator": "Use seed.",
}


class LoaderState(TypedDict):
    """Position of a loader, in plain values that `torch.save` and JSON accept."""

    epoch: int
    batch: int
    batch_size: int
    order: str
    seed: int


class Loader(ClosedOnExit):
    """Batches of the images and labels in a `.beton` file; each `for` is the next epoch.

    By default, images are uint8 [B, 3, R, R] in channels_last, labels int64 [B] (multi-label files:
    int8 [B, K]). The order, crops and flips are functions of (seed, epoch, sample id) only.
    """

    def __init__(
        self,
        path: str | Path | LoaderPlan,
        batch_size: int | None = None,
        *,
        resolution: int = 224,
        order: str | Enum = "sequential",
        num_workers: int = -1,
        seed: int | None = 0,
        indices: Sequence[int] | np.ndarray | None = None,
        drop_last: bool = False,
        distributed: bool | None = None,
        transform: Transform | None = None,
        reuse_memory: bool = False,
        **settings: Any,
    ) -> None:
        """Open a `.beton` file.

        Args:
            path: path of the file, or a LoaderPlan, which is used as it is.
            batch_size: images per batch over all ranks.
            resolution: R, in pixels.
            order: sequential, random, quasi_random, balanced (classes equally often) or weighted
                (by `weights`); FFCV's OrderOption is also accepted.
            num_workers: decoding threads; -1 means one per available core.
            seed: seed of order, crops and flips. None means 0.
            indices: samples to load, integers [M], in this order. None means all.
            drop_last: drop the incomplete batch at the end, unless it is the only one.
            distributed: True splits each batch among the ranks of torch.distributed. None does
                so if a process group of several ranks exists.
            transform: function (images, labels) -> (images, labels), called with each batch on
                the loader's device. torch's random numbers inside are seeded by (seed, epoch,
                batch, rank) and restored afterwards.
            reuse_memory: True yields batches that are valid until the next one is requested, and
                saves one copy per batch.
            settings: further fields of LoaderPlan, such as augment, device and dtype. `subset` may
                also be the name of a subset, as in `harness write-beton --subset`, or a list of
                names of classes; `classes` then has those of the subset in label order.

        Raises:
            UserError: a setting is unknown or invalid, the file is missing or damaged, there is no
                such GPU, or this is one of several workers of torch's DataLoader.
        """
        if isinstance(path, LoaderPlan):
            if batch_size is not None or settings:
                given = [*(["batch_size"] if batch_size is not None else []), *settings]
                raise UserError(
                    f"Loader was given a plan and also {', '.join(given)}.",
                    "Use dataclasses.replace(plan, ...) to change a plan.",
                )
            plan = path
        else:
            if batch_size is None:
                raise UserError("Loader needs batch_size.", "Use Loader(path, batch_size=256).")
            _check(settings)
            num_workers = whole_number("Loader.num_workers", num_workers)
            if num_workers < 1 and num_workers != -1:
                raise UserError(
                    f"Loader.num_workers is {num_workers}; decoding takes at least one thread.",
                    "Use num_workers=1, or -1 for one per available core.",
                )
            if "world_size" not in settings:
                _refuse_workers_of_torch()
            rank, world_size = _rank_and_world_size(distributed)
            defaults = {"rank": rank, "world_size": world_size, "backend": "auto"}
            further: dict[str, Any] = defaults | settings
            path = Path(path).expanduser()
            further["subset"] = subset_of(settings.get("subset"), path)
            plan = LoaderPlan(
                beton=path,
                batch_size=batch_size,
                resolution=resolution,
                order=_order(order),  # type: ignore[arg-type]  # LoaderPlan checks the value
                num_threads=_available_cores() if num_workers == -1 else num_workers,
                seed=0 if seed is None else seed,
                indices=indices,
                drop_last=drop_last,
                **further,
            )
        plan = replace(plan, device=device_of(plan.device))
        self._transform, self._reuse_memory = transform, reuse_memory
        self._opened = open_loader(plan)
        self._epoch, self._batch = 0, 0  # position of the next batch
        self._is_positioned = True  # the next `for` starts here instead of in the next epoch

    @property
    def plan(self) -> LoaderPlan:
        """All settings of the loader."""
        return self._opened.plan

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self._opened.classes

    @property
    def num_samples(self) -> int:
        """Images per epoch over all ranks."""
        return self._opened.num_samples

    @property
    def epoch(self) -> int:
        """The epoch in progress or left early; after a complete epoch, the next one."""
        return self._epoch

    def __len__(self) -> int:
        """Batches per epoch of this rank."""
        return len(self._opened)

    def __iter__(self) -> Iterator[Batch]:
        """Start the next epoch, or the one that set_epoch or load_state_dict selected.

        An epoch begins when its first batch is read: some trainers make an iterator and read
        nothing, to check their data. An epoch that was left early counts as ended. Only the newest
        iterator is valid.
        """
        if not self._is_positioned:
            self._epoch, self._batch = self._epoch + 1, 0
        self._is_positioned = False
        epoch, start_batch = self._epoch, self._batch
        with self._opened.epoch(epoch, start_batch=start_batch) as batches:
            for number, batch in enumerate(batches, start=start_batch):
                self._batch = number + 1
                yield self._finished(batch, epoch, number)
        if (self._epoch, self._is_positioned) == (epoch, False):
            self.set_epoch(epoch + 1)

    def _finished(self, batch: Batch, epoch: int, number: int) -> Batch:
        if not self._reuse_memory:
            images, labels = batch
            batch = images.clone(), labels.clone()
        if self._transform is None:
            return batch
        device = torch.device(self.plan.device)
        devices = [device] if device.type == "cuda" else []
        key = f"{self.plan.seed} {epoch} {number} {self.plan.rank}".encode()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
            return self._transform(*batch)

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the next `for`.

        Raises:
            UserError: the epoch is negative or not a whole number.
        """
        epoch = whole_number("The epoch", epoch)
        if epoch < 0:
            raise UserError(f"Loader.set_epoch({epoch}): an epoch must be at least 0.")
        self._epoch, self._batch, self._is_positioned = epoch, 0, True

    def state_dict(self) -> LoaderState:
        """Return the position after the last batch that was returned."""
        epoch, batch = self._epoch, self._batch
        if batch and batch >= len(self):
            epoch, batch = epoch + 1, 0
        return {
            "epoch": epoch,
            "batch": batch,
            "batch_size": self.plan.batch_size,
            "order": self.plan.order,
            "seed": self.plan.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position: the next `for` returns the batches that follow it.

        The number of ranks, threads and the device may differ from those of the saved loader.

        Raises:
            UserError: the state belongs to a loader with another order of batches, or is not the
                state of a loader.
        """
        own: Mapping[str, Any] = self.state_dict()
        if not isinstance(state, Mapping):
            raise UserError(
                f"The loader's state is {state!r}.",
                "Pass what `state_dict` of a Loader returned.",
            )
        if missing := [name for name in own if name not in state]:
            raise UserError(
                f"The loader's state has no {', '.join(missing)}.",
                "Pass what `state_dict` of a Loader returned.",
            )
        for name in ("batch_size", "order", "seed"):
            if state[name] != own[name]:
                raise UserError(
                    f"The loader's state was saved with {name} {state[name]}, "
                    f"but this loader has {own[name]}.",
                    f"Open the loader with the saved {name}, or use set_epoch.",
                )
        batch = whole_number("The batch of the loader's state", state["batch"])
        if not 0 <= batch <= len(self):
            raise UserError(
                f"The loader's state is at batch {batch}, "
                f"but an epoch of this loader has {len(self)}.",
                "Open the loader with the saved batch_size and drop_last, or use set_epoch.",
            )
        self.set_epoch(state["epoch"])
        self._batch = batch

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied.

        Raises:
            UserError: always.
        """
        raise UserError(
            "A Loader cannot be pickled or copied.",
            "Pickle loader.plan and loader.state_dict(), and open Loader(plan) in each process.",
        )

    def close(self) -> None:
        """Release threads, buffers and the file. May be called more than once."""
        self._opened.close()

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"Loader({str(plan.beton)!r}, batch_size={plan.batch_size}, "
            f"resolution={plan.resolution}, order={plan.order!r}): "
            f"{counted(self.num_samples, 'image')}, {counted(len(self.classes), 'class')}, "
            f"{counted(len(self), 'batch')}"
        )


def _check(settings: dict[str, Any]) -> None:
    """Raise UserError for a setting that is not a field of LoaderPlan."""
    known = [field.name for field in fields(LoaderPlan) if field.name not in ("beton",)]
    for name in settings:
        if name in _OF_OTHERS:
            raise UserError(f"Loader has no parameter {name}.", _OF_OTHERS[name])
        if name not in known:
            near = names.nearest(name, [*known, "num_workers", "transform", "reuse_memory"])
            raise UserError(
                f"Loader has no parameter {name}.",
                f"Did you mean {' or '.join(near)}?" if near else "See LoaderPlan for all.",
            )


def _order(order: str | Enum) -> str:
    name = order.name if isinstance(order, Enum) else order
    lowered = str(name).lower()
    return lowered if lowered in get_args(Order) else str(name)


def _rank_and_world_size(distributed: bool | None) -> tuple[int, int]:
    is_initialized = dist.is_available() and dist.is_initialized()
    if distributed and not is_initialized:
        raise UserError(
            "Loader(distributed=True) needs a process group.",
            "Call torch.distributed.init_process_group() first.",
        )
    if distributed is False or not is_initialized:
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _refuse_workers_of_torch() -> None:
    """Raise UserError in one of several workers of torch's DataLoader."""
    worker = get_worker_info()
    if worker is not None and worker.num_workers > 1:
        raise UserError(
            f"This Loader is in one of {worker.num_workers} workers of torch's DataLoader: each "
            "would deliver all images.",
            "Iterate over the Loader itself, which decodes in threads (num_workers); or pass rank "
            "and world_size.",
        )


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
