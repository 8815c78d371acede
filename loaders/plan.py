"""Settings that determine the pixels that a loader yields, and their order."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from loaders.augmentations import Augmentations
from loaders.interpolation import RESIZE_VERSION, Interpolation
from writers.errors import UserError
from writers.subset.spec import Subset
from writers.text_names import counted

MAX_LABELS = 1_000_000  # largest number of labels after relabeling; each has a class name in memory
MAX_BATCH_BYTES = 2**46  # largest batch, 70 TB; shapes of much larger arrays overflow
_WHOLE_NUMBERS = (
    "batch_size",
    "resolution",
    "num_threads",
    "batches_ahead",
    "world_size",
    "crops_per_image",
    "rank",
    "seed",
    "resize_version",
)

Order = Literal["sequential", "random", "quasi_random", "balanced", "weighted"]


@dataclass(frozen=True, eq=False)
class LoaderPlan:
    """Settings of a loader. The same plan and epoch give the same batches, in every backend.

    The backends `replay` and `synthetic` are exceptions: they return repeated or random images.

    Rank r of W ranks takes samples r, r + W, r + 2 W, ... of each batch. At each step, all ranks
    together have the batch that a single process would have; in an epoch they have each sample
    once, except with drop_last and orders by weight. If the last batch has fewer samples than there
    are ranks, the highest ranks have one batch less.

    Batches are uint8 by default: one byte per value is copied to the GPU, and the harness's models
    normalize their input, so that attacks work on pixels. With `dtype="float16"` the loader writes
    (pixel / 255 - mean) / std in the same pass, at two bytes per value.

    Attributes:
        beton: path of the `.beton` file.
        batch_size: images per batch over all ranks.
        resolution: R; batches are [B, 3, R, R], channels_last.
        augment: crop of each image.
        crop_scale: random_resized_crop: range of the crop's fraction of the image area.
        crop_ratio: random_resized_crop: range of width / height.
        horizontal_flip: mirror each image with probability 1/2.
        crops_per_image: k > 1: batches are [B, k, 3, R, R]; each image is decoded once for k crops.
        center_fraction: center_crop: fraction of the shorter side.
        augmentations: further augmentations, after crop and flip: color, geometry, erasing,
            mixing; see `loaders.augmentations`. With MixUp or CutMix labels are probabilities,
            float32 [B, K]. None means no further augmentation.
        interpolation: area averages the area under each output pixel, bilinear if an axis grows.
            bilinear and bicubic are Pillow's, with antialiasing.
        order: quasi_random reads a few pages of the file at a time. balanced draws each class
            equally often, and weighted each sample in proportion to its weight; an epoch has as
            many draws as there are samples (`loaders/sampling.py`).
        weights: weighted only, else None: one number per sample of the file, as an array or as the
            path of a .npy or CSV file (`loaders.sampling.read_weights`).
        dtype: dtype of the images.
        mean: float16 only, else None: mean of red, green and blue, for pixels in [0, 1].
        std: float16 only, else None: standard deviation of red, green and blue, for pixels in
            [0, 1].
        drop_last: drop the incomplete batch at the end, unless it is the only one.
        seed: seed of order, crops, flips and augmentations.
        subset: view of the samples that this subset selects, relabeled. None means no subset.
        indices: view of these samples of the file, in this order. None means all samples.
        labels: new label of each label in the file; -1 drops the samples. None means labels as
            stored.
        rank: index of this process among the processes that share each batch.
        world_size: number of processes that share each batch.
        device: device of the batches.
        num_threads: decoding threads.
        batches_ahead: batches that are prefetched.
        backend: a module name in loaders/backends, or "auto".
        on_corrupt: "skip" leaves damaged images out; their batches are shorter.
        poison: debugging: overwrite a batch as soon as the next one is requested.
        resize_version: version of the resize's pixels; only the current one can be computed.

    Raises:
        UserError: a value is invalid, or two values contradict each other.
    """

    beton: Path
    batch_size: int
    resolution: int
    augment: Literal["random_resized_crop", "center_crop"] = "center_crop"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: bool = False
    crops_per_image: int = 1
    center_fraction: float = 224 / 256
    augmentations: Augmentations | None = None
    interpolation: Interpolation = "area"
    order: Order = "sequential"
    weights: Sequence[float] | np.ndarray | str | Path | None = None
    dtype: Literal["uint8", "float16"] = "uint8"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    drop_last: bool = False
    seed: int = 0
    subset: Subset | None = None
    indices: Sequence[int] | np.ndarray | None = None
    labels: Sequence[int] | None = None
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    num_threads: int = 1
    batches_ahead: int = 2
    backend: str = "ffcv"
    on_corrupt: Literal["raise", "skip"] = "raise"
    poison: bool = False
    resize_version: int = RESIZE_VERSION

    def __post_init__(self) -> None:
        self._convert_types()
        self._check_choices()
        self._check_numbers()
        self._check_combinations()
        self._check_crops()
        self._check_normalization()
        if self.resize_version != RESIZE_VERSION:
            raise UserError(
                f"LoaderPlan.resize_version is {self.resize_version}; this version of the loader "
                f"computes {RESIZE_VERSION}.",
                "Leave it out, or install the version of harness that made the plan.",
            )

    def _convert_types(self) -> None:
        """Convert the values that callers may give in several types."""
        object.__setattr__(self, "beton", Path(self.beton))
        for name in _WHOLE_NUMBERS:
            object.__setattr__(self, name, whole_number(f"LoaderPlan.{name}", getattr(self, name)))
        for name in ("horizontal_flip", "drop_last", "poison"):
            object.__setattr__(self, name, _flag(name, getattr(self, name)))
        for name in ("crop_scale", "crop_ratio"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        if self.labels is not None:
            object.__setattr__(self, "labels", _label_map(self.labels))
        if self.indices is not None:
            object.__setattr__(self, "indices", _freeze(self.indices))
        if isinstance(self.weights, str):
            object.__setattr__(self, "weights", Path(self.weights))
        elif self.weights is not None and not isinstance(self.weights, Path):
            object.__setattr__(self, "weights", _frozen(self.weights))

    def _check_choices(self) -> None:
        for name, allowed in _choices().items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"LoaderPlan.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(allowed)}."
                )

    def _check_numbers(self) -> None:
        for name in _WHOLE_NUMBERS:
            if name not in ("seed", "rank", "resize_version") and getattr(self, name) < 1:
                raise UserError(
                    f"LoaderPlan.{name} is {getattr(self, name)}; it must be at least 1."
                )
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"LoaderPlan.rank is {self.rank}; it must be in 0 ... {self.world_size - 1} for "
                f"{self.world_size} ranks."
            )
        if self.batch_size < self.world_size:
            raise UserError(
                f"LoaderPlan.batch_size is {self.batch_size} for {self.world_size} ranks; "
                "each needs at least one image."
            )
        batch_bytes = self.batch_size * self.crops_per_image * 3 * self.resolution**2
        if batch_bytes > MAX_BATCH_BYTES:
            raise UserError(
                f"There is not enough memory for a batch of {counted(self.batch_size, 'image')} of "
                f"{self.resolution:,} pixels per side, which takes {batch_bytes / 1e12:,.0f} TB.",
                "Use a smaller batch size or resolution.",
            )

    def _check_combinations(self) -> None:
        if not isinstance(self.subset, Subset | None):
            raise UserError(
                f"LoaderPlan.subset is {self.subset!r}; it must be a Subset.",
                "Pass names to Loader, or use writers.subset.spec.resolve.",
            )
        if (self.weights is None) == (self.order == "weighted"):
            raise UserError(
                "LoaderPlan.weights and order: weighted go together.",
                "Set both, or use order: balanced for equal shares of the classes.",
            )
        if self.subset is not None and (self.indices is not None or self.labels is not None):
            raise UserError(
                "LoaderPlan.subset cannot be combined with indices or labels.",
                "Use one of them, or Subset.select to compute the indices.",
            )
        if self.crops_per_image > 1 and self.augment != "random_resized_crop":
            raise UserError(
                f"LoaderPlan.crops_per_image is {self.crops_per_image}; all crops are equal with "
                f"augment: {self.augment}.",
                "Use augment: random_resized_crop.",
            )
        if self.crops_per_image > 1 and self.augmentations is not None:
            raise UserError(
                "LoaderPlan.augmentations needs one crop per image; crops_per_image is "
                f"{self.crops_per_image}.",
                "Augment the crops in your own code, or set crops_per_image=1.",
            )

    def _check_crops(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"LoaderPlan.crop_scale is {self.crop_scale}; "
                "it must be (low, high) with 0 < low <= high <= 1."
            )
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise UserError(
                f"LoaderPlan.crop_ratio is {self.crop_ratio}; it must be (low, high) with 0 < low "
                "<= high."
            )
        if not isinstance(self.center_fraction, (int, float)) or not 0 < self.center_fraction <= 1:
            raise UserError(
                f"LoaderPlan.center_fraction is {self.center_fraction}; it must be above 0 and at "
                "most 1."
            )

    def _check_normalization(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if self.dtype == "uint8":
                if values is not None:
                    raise UserError(
                        f"LoaderPlan.{name} has no effect on uint8 batches.",
                        "Set dtype='float16' as well.",
                    )
            elif (
                values is None
                or len(values) != 3
                or not np.isfinite(values).all()
                or (name == "std" and min(values) <= 0)
            ):
                raise UserError(
                    f"LoaderPlan.{name} is {values}; float16 batches need three numbers, one per "
                    "color" + (", above 0." if name == "std" else ".")
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
        """Return all fields as hashable values."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.indices is not None:
            named["indices"] = np.asarray(self.indices).tobytes()
        if isinstance(self.weights, np.ndarray):
            named["weights"] = self.weights.tobytes()
        if self.subset is not None:
            named["subset"] = self.subset.name, self.subset.digest
        return tuple(named.values())

    @property
    def has_scattered_order(self) -> bool:
        """True if consecutive samples of an epoch are at unrelated places of the file."""
        return self.order not in ("sequential", "quasi_random")

    @property
    def local_batch_size(self) -> int:
        """Images of a full batch that belong to this rank."""
        return len(range(self.rank, self.batch_size, self.world_size))


def whole_number(name: str, value: Any) -> int:
    """Convert a whole number, also of numpy's or torch's types, to an int.

    Raises:
        UserError: the value is not a whole number; the message begins with the name.
    """
    try:
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{name} is {value!r}; it must be a whole number.")


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise UserError(f"LoaderPlan.{name} is {value!r}; it must be True or False.")


def _pair(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    raise UserError(
        f"LoaderPlan.{name} is {value!r}; it must be two finite numbers.",
        "Give the lowest and the highest value, such as (0.5, 1.0).",
    )


def _label_map(labels: Any) -> tuple[int, ...]:
    """Return new labels as ints. Raises UserError for other values, or a label that is too high."""
    try:
        numbers = tuple(whole_number("a label", label) for label in labels)
    except (TypeError, UserError):
        raise UserError(
            "LoaderPlan.labels must have a whole number for each class of the file.",
            "Use -1 for classes whose samples are left out.",
        ) from None
    if numbers and max(numbers) >= MAX_LABELS:
        raise UserError(
            f"LoaderPlan.labels has the label {max(numbers)}; the highest possible is "
            f"{MAX_LABELS - 1}."
        )
    return numbers


def _choices() -> dict[str, tuple[str, ...]]:
    """Return the allowed values of each field with a fixed set of choices."""
    return {
        name: get_args(hint)
        for name, hint in get_type_hints(LoaderPlan).items()
        if get_origin(hint) is Literal
    }


def _freeze(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return indices as a read-only int64 array [N] that no caller can change.

    Raises UserError unless they are a one-dimensional array of integers.
    """
    array = _frozen(indices)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise UserError(
            f"LoaderPlan.indices is {array.dtype} of shape {array.shape}; it must be a "
            "one-dimensional array of integers.",
            "Use np.flatnonzero(indices) for flags." if array.dtype == bool else "",
        )
    return _frozen(array.astype(np.int64, copy=False))


def _frozen(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return values as a read-only array that no caller can change; copy them if necessary."""
    if isinstance(values, np.ndarray) and values.base is None and not values.flags.writeable:
        return values
    array = np.array(values)
    array.flags.writeable = False
    return array
