"""Everything a loader needs, frozen: the whole of what decides which pixels come in which order."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from writers.errors import UserError
from writers.subset.spec import Subset

RESIZE_VERSION = 2  # of the pixels that a resize gives; 1: float sums, 2: integer weights


@dataclass(frozen=True, eq=False)
class LoaderPlan:
    """Same plan, same epoch: same batches, whatever the number of threads or the backend.

    `batch_size` is that of all ranks together. Rank r of W takes every W-th sample of each batch, from the r-th on: at each
    step the ranks together have exactly the batch that one process would have; together they have each sample once an epoch.
    Where the last batch has fewer samples than there are ranks, the later ranks have one batch less. Raises UserError for a
    value that cannot be meant.

    Batches are uint8: a byte a value on the way to the GPU, and the harness's models normalise by themselves, so that an attack
    works on pixels. `dtype="float16"` is for a model that does not: the loader writes (pixel / 255 - mean) / std, in the same
    pass, at twice the bytes.
    """

    beton: Path
    batch_size: int
    resolution: int  # R: batches are [B, 3, R, R], channels_last
    augment: Literal["random_resized_crop", "center_crop"] = "center_crop"
    crop_scale: tuple[float, float] = (0.08, 1.0)  # random_resized_crop: share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # random_resized_crop: width / height
    horizontal_flip: bool = False  # each image with probability 1/2
    crops_per_image: int = (
        1  # k > 1: batches are [B, k, 3, R, R], k crops of an image that is decoded once
    )
    center_fraction: float = 224 / 256  # center_crop: share of the shorter side
    order: Literal["sequential", "random", "quasi_random"] = (
        "sequential"  # quasi_random: reads a few pages at a time
    )
    dtype: Literal["uint8", "float16"] = "uint8"
    mean: tuple[float, float, float] | None = (
        None  # float16: of red, green and blue, for pixels in [0, 1]
    )
    std: tuple[float, float, float] | None = None  # likewise
    drop_last: bool = False
    seed: int = 0
    subset: Subset | None = None  # a view: what this subset takes of the beton, relabelled
    indices: Sequence[int] | np.ndarray | None = (
        None  # a view: these samples of the beton, in this order; None: all
    )
    labels: Sequence[int] | None = (
        None  # relabelling: new label of each label in the file; -1: not used
    )
    rank: int = 0  # which of the processes that share each batch this is
    world_size: int = 1  # how many those are
    device: str = "cpu"
    num_threads: int = 1
    batches_ahead: int = 2
    backend: str = "ffcv"  # a name in loaders/backends
    on_corrupt: Literal["raise", "skip"] = (
        "raise"  # skip: damaged images are left out; their batches are shorter
    )
    poison: bool = False  # debugging: overwrite a batch as soon as the next one is asked for

    def __post_init__(self) -> None:
        object.__setattr__(self, "beton", Path(self.beton))
        if self.indices is not None:
            object.__setattr__(self, "indices", _frozen(self.indices))
        for name, allowed in _choices().items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"LoaderPlan.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}."
                )
        for name in (
            "batch_size",
            "resolution",
            "num_threads",
            "batches_ahead",
            "world_size",
            "crops_per_image",
        ):
            if getattr(self, name) < 1:
                raise UserError(
                    f"LoaderPlan.{name} is {getattr(self, name)}; it must be at least 1."
                )
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"LoaderPlan.rank is {self.rank}; of {self.world_size} ranks the last is {self.world_size - 1}."
            )
        if self.batch_size < self.world_size:
            raise UserError(
                f"LoaderPlan.batch_size is {self.batch_size} for {self.world_size} ranks; each needs an image."
            )
        if self.subset is not None and (self.indices is not None or self.labels is not None):
            raise UserError(
                "LoaderPlan.subset is a view already; indices and labels do not go with it."
            )
        if self.crops_per_image > 1 and self.augment != "random_resized_crop":
            raise UserError(
                f"LoaderPlan.crops_per_image is {self.crops_per_image}; with augment: {self.augment} all crops are one.",
                "Use augment: random_resized_crop.",
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"LoaderPlan.crop_scale is {self.crop_scale}; "
                "it must be (low, high) with 0 < low <= high <= 1."
            )
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise UserError(
                f"LoaderPlan.crop_ratio is {self.crop_ratio}; it must be (low, high) with 0 < low <= high."
            )
        if not 0 < self.center_fraction <= 1:
            raise UserError(
                f"LoaderPlan.center_fraction is {self.center_fraction}; it must be above 0 and at most 1."
            )
        self._check_normalisation()

    def _check_normalisation(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if self.dtype == "uint8":
                if values is not None:
                    raise UserError(
                        f"LoaderPlan.{name} has no effect on uint8 batches.",
                        "Give dtype='float16' as well.",
                    )
            elif (
                values is None
                or len(values) != 3
                or not np.isfinite(values).all()
                or (name == "std" and min(values) <= 0)
            ):
                raise UserError(
                    f"LoaderPlan.{name} is {values}; float16 batches need three numbers, one of each colour"
                    + (", above 0." if name == "std" else ".")
                )
            else:
                object.__setattr__(self, name, tuple(float(value) for value in values))

    def __eq__(self, other: object) -> bool:
        return (
            self._values() == other._values() if isinstance(other, LoaderPlan) else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[Any, ...]:
        """Everything in the plan, as values that can be compared."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.indices is not None:
            named["indices"] = np.asarray(self.indices).tobytes()
        if self.subset is not None:
            named["subset"] = self.subset.name, self.subset.digest
        if self.labels is not None:
            named["labels"] = tuple(self.labels)
        return tuple(named.values())

    @property
    def share(self) -> int:
        """Images of a whole batch that are this rank's."""
        return len(range(self.rank, self.batch_size, self.world_size))


def _choices() -> dict[str, tuple[str, ...]]:
    """What the fields that are a choice may be."""
    return {
        name: get_args(hint)
        for name, hint in get_type_hints(LoaderPlan).items()
        if get_origin(hint) is Literal
    }


def _frozen(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64, and nobody else's to change."""
    if (
        isinstance(indices, np.ndarray)
        and indices.dtype == np.int64
        and indices.base is None
        and not indices.flags.writeable
    ):
        return indices
    array = np.array(indices)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise UserError(
            f"LoaderPlan.indices is {array.dtype} of shape {array.shape}; it must be a row of whole numbers."
        )
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array
