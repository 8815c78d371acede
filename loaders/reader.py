"""Read the samples that a plan selects from a `.beton` file, and the order of an epoch.

Only the tables of the file are read, not the images. Files that FFCV would misread are rejected
here: FFCV opens a half-written file without an error, and reads the whole file as if it were its
table of images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders import kernel_c
from loaders.order import quasi_random_order, random_order
from loaders.plan import LoaderPlan
from loaders.sampling import (
    Draws,
    balanced_weights,
    check_weights,
    drawn_rows,
    plan_draws,
    read_weights,
    row_ids,
)
from writers.beton.encoding import DCT, JPEG, RAW
from writers.beton.store import Beton, damaged, has_fields_of, open_beton
from writers.errors import UserError
from writers.subset.spec import Subset
from writers.text_names import counted, preview


@dataclass(frozen=True)
class Samples:
    """The N samples that a plan selects, in the plan's order, as columns of equal length.

    With a weighted order, an epoch draws some samples several times. The columns then have M > N
    rows: rows after the first N are second and later draws. They differ from the first draw of the
    same sample only in their ids.

    Attributes:
        path: the `.beton` file.
        classes: class names in label order, after relabeling.
        indices: int64 [N], index of each sample in the file.
        ids: uint64 [N], keys of the random order and crops. A sample has the same id in all files.
        labels: int64 [N] after relabeling; int8 [N, K] for multi-label files: 1 present,
            0 difficult, -1 absent.
        modes: uint8 [N], 0 JPEG, 1 raw pixels, 2 dct blob (coefficients without entropy code).
        widths: int64 [N], pixels.
        heights: int64 [N], pixels.
        offsets: int64 [N], first byte of the image in the file.
        sizes: int64 [N], bytes.
        draws: draws of each sample per epoch. None means one.
    """

    path: Path
    classes: tuple[str, ...]
    indices: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    modes: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    draws: Draws | None = None

    def __len__(self) -> int:
        """Return N, which is also the number of draws per epoch."""
        return len(self.indices) if self.draws is None else len(self.draws.units)

    @property
    def num_rows(self) -> int:
        """Length of the columns: N, or more with a weighted order."""
        return len(self.indices)

    @property
    def multi_label(self) -> bool:
        """True if each image has a label for each class."""
        return self.labels.ndim == 2

    def num_batches(self, plan: LoaderPlan) -> int:
        """Return the number of batches of this rank in an epoch.

        A set smaller than a batch gives one short batch even with drop_last, never zero batches.
        """
        whole, rest = divmod(len(self), plan.batch_size)
        if plan.drop_last and whole:
            return whole
        return whole + (rest > plan.rank)

    def order(self, plan: LoaderPlan, epoch: int, start_batch: int = 0) -> np.ndarray:
        """Return this rank's samples of an epoch, from batch `start_batch` on.

        Samples that drop_last leaves out are not included.

        Returns:
            Positions in these columns, int64 [M]. Slices of `plan.local_batch_size` are the
            batches.

        Raises:
            UserError: start_batch is beyond the end of the epoch.
        """
        num_batches = self.num_batches(plan)
        if not 0 <= start_batch <= num_batches:
            raise UserError(
                f"An epoch of {self.path} has {counted(num_batches, 'batch')}; it cannot start at "
                f"batch {start_batch}.",
                "Batches are counted from 0. Resume an epoch with the plan that started it.",
            )
        if self.draws is not None:
            rows = drawn_rows(self.draws, plan.seed, epoch, self.ids[: len(self)])
            positions = rows[random_order(plan.seed, epoch, self.ids[rows])]
        elif plan.order == "random":
            positions = random_order(plan.seed, epoch, self.ids)
        elif plan.order == "quasi_random":
            positions = quasi_random_order(plan.seed, epoch, self.ids, self.offsets)
        else:
            positions = np.arange(len(self))
        if plan.drop_last and len(self) >= plan.batch_size:
            positions = positions[: len(self) // plan.batch_size * plan.batch_size]
        # Each batch is divided separately: if world_size does not divide batch_size, this is not
        # every W-th sample of the epoch.
        is_local = np.arange(len(positions)) % plan.batch_size % plan.world_size == plan.rank
        local: np.ndarray = positions[is_local][start_batch * plan.local_batch_size :]
        return local

    def batches(self, plan: LoaderPlan, epoch: int, start_batch: int = 0) -> list[np.ndarray]:
        """Return `order` split into batches."""
        return split_batches(plan, self.order(plan, epoch, start_batch))

    def decode_error(self, position: int, why: str) -> UserError:
        """Build the error for a sample whose bytes do not decode."""
        return UserError(
            f"Sample {self.indices[position]} of {self.path} does not decode: {why}.",
            f"Its JPEG has {self.sizes[position]:,} bytes, from byte {self.offsets[position]:,} "
            "on. Run "
            f"`harness verify {self.path}` to find other damage, then write the beton again.",
        )

    def memory_error(self, position: int) -> MemoryError:
        """Build the error for a sample that is too large to decode."""
        error = kernel_c.memory_error(int(self.widths[position]), int(self.heights[position]))
        error.add_note(f"At sample {self.indices[position]} of {self.path}.")
        return error

    def all_corrupt_error(self, num_images: int, last: UserError) -> UserError:
        """Build the error for a batch in which all images are damaged, for on_corrupt: skip.

        If the whole batch were skipped, this rank would have fewer steps than the other ranks.
        """
        return UserError(
            f"Every image of a batch is damaged ({counted(num_images, 'image')}). {last.message}",
            last.hint,
        )


def split_batches(plan: LoaderPlan, order: np.ndarray) -> list[np.ndarray]:
    """Split this rank's samples of an epoch, int64 [M], into its batches. The last may be small."""
    return [
        order[start : start + plan.local_batch_size]
        for start in range(0, len(order), plan.local_batch_size)
    ]


def open_samples(plan: LoaderPlan) -> Samples:
    """Read the samples of a plan.

    Raises:
        UserError: the file is missing, damaged, or not a beton of images and labels; an index or a
            label is not in the file; the view is empty or has fewer samples than there are ranks;
            or weights are wrong.
    """
    beton = open_beton(plan.beton)
    rows, sizes = beton.rows, _check_sizes(beton)
    classes = tuple(beton.manifest.classes)
    if plan.subset is not None:
        indices, labels = _select_subset(plan.subset, beton)
        classes = plan.subset.classes
    else:
        indices = _select_indices(plan, len(rows))
        labels, classes = _relabel(plan, beton.labels[indices], classes)
        if labels.ndim == 1:
            used = labels >= 0
            indices, labels = indices[used], labels[used]
    if not len(indices):
        raise UserError(
            f"{plan.beton}: the view has no sample.",
            "The plan's indices and labels exclude all samples.",
        )
    # A rank without samples would have no batch, and the other ranks would wait for it.
    if len(indices) < plan.world_size:
        raise UserError(
            f"{plan.beton}: the view has {counted(len(indices), 'sample')} for {plan.world_size} "
            "ranks.",
            "Use at most as many ranks as there are samples.",
        )
    ids, draws = beton.ids[indices], None
    if plan.order in ("balanced", "weighted"):
        draws = plan_draws(_weights(plan, beton, indices, labels), ids, labels)
        ids = row_ids(draws, ids)
        indices, labels = indices[draws.sample_of_row], labels[draws.sample_of_row]
    chosen = rows[indices]
    return Samples(
        plan.beton,
        classes,
        indices,
        ids,
        labels,
        chosen["mode"].copy(),
        chosen["width"].astype(np.int64),
        chosen["height"].astype(np.int64),
        chosen["offset"].astype(np.int64),
        sizes[indices],
        draws,
    )


def _weights(plan: LoaderPlan, beton: Beton, indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weights of the selected samples, float64 [N]. Raises UserError if all are 0."""
    if plan.weights is None:
        return balanced_weights(labels, plan.beton)
    weights = plan.weights
    if isinstance(weights, Path):
        weights = read_weights(weights, tuple(beton.manifest.classes), beton.labels, beton.ids)
    chosen: np.ndarray = check_weights(np.asarray(weights), len(beton.rows))[indices]
    if not chosen.sum() > 0:
        raise UserError(
            f"All weights of the selected samples of {plan.beton} are 0.",
            "Give at least one of them a positive weight.",
        )
    return chosen


def decoded_bytes(samples: Samples) -> int:
    """Return the bytes that all rows of the columns take as uint8 pixels at their stored sizes."""
    return int((3 * samples.widths * samples.heights).sum())


def _check_sizes(beton: Beton) -> np.ndarray:
    """Return the bytes of each image in the file, int64 [all samples].

    Raises:
        UserError: a kernel could read beyond an image.
    """
    if not has_fields_of(beton):
        raise damaged(beton.path, "its samples are not an image and a label")
    rows, sizes = beton.rows, beton.sizes
    num_bytes, is_raw = 3 * rows["width"].astype(np.int64) * rows["height"], rows["mode"] == RAW
    if (
        (num_bytes == 0).any()
        or (sizes[is_raw] != num_bytes[is_raw]).any()
        or not np.isin(rows["mode"], (JPEG, RAW, DCT)).all()
    ):
        raise damaged(beton.path, "its rows do not fit its images")
    return sizes


def _select_subset(subset: Subset, beton: Beton) -> tuple[np.ndarray, np.ndarray]:
    """Return the file indices and new labels of a subset's samples, both int64 [M].

    Raises UserError if the file lacks a class of the subset, or has several labels per image.
    """
    manifest = beton.manifest
    if missing := sorted(set(subset.source_classes) - set(manifest.classes)):
        raise UserError(
            f"{beton.path} lacks {len(missing)} of the classes of subset {subset.name}: "
            f"{preview(missing)}.",
            "A view can only select classes that were written.",
        )
    if beton.labels.ndim != 1:
        raise UserError(
            f"{beton.path} has images with many labels; subsets of classes need one label per "
            "image.",
            "Leave out the subset, or select images with indices.",
        )
    return subset.select(manifest.split, manifest.classes, beton.labels, beton.ids)


def _select_indices(plan: LoaderPlan, num_in_file: int) -> np.ndarray:
    if plan.indices is None:
        return np.arange(num_in_file)
    indices = np.asarray(plan.indices)
    outside = indices[(indices < 0) | (indices >= num_in_file)]
    if len(outside):
        raise UserError(
            f"LoaderPlan.indices has sample {outside[0]}; {plan.beton} has "
            f"{counted(num_in_file, 'sample')}."
        )
    return indices


def _relabel(
    plan: LoaderPlan, labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return new labels (-1: not used) and class names.

    If several classes get the same label, its name joins their names with "+". The name of a label
    that no class gets is "". Multi-label arrays (int8 [N, K]) are returned unchanged. Raises
    UserError if the labels of the file are damaged or do not fit `plan.labels`.
    """
    if labels.ndim == 2:
        if plan.labels is not None:
            raise UserError(
                f"LoaderPlan.labels relabels classes; each image of {plan.beton} has many labels."
            )
        if not np.isin(labels, (-1, 0, 1)).all():
            raise damaged(plan.beton, "it has labels other than -1, 0 and 1")
        return labels, classes
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(
            f"{plan.beton} has labels from {labels.min()} to {labels.max()} for "
            f"{counted(len(classes), 'class')}.",
            "Write it again with `harness write-beton`.",
        )
    if plan.labels is None:
        return labels.copy(), classes
    if len(plan.labels) != len(classes):
        raise UserError(
            f"LoaderPlan.labels relabels {counted(len(plan.labels), 'class')}; {plan.beton} has "
            f"{len(classes)}."
        )
    table = np.array(plan.labels, np.int64)
    if min(plan.labels) < -1:
        raise UserError(
            f"LoaderPlan.labels has the label {min(plan.labels)}; the lowest is -1, for a class "
            "not used."
        )
    names: list[list[str]] = [[] for _ in range(max(plan.labels) + 1)]
    for name, label in zip(classes, plan.labels, strict=True):
        if label >= 0:
            names[label].append(name)
    return table[labels], tuple("+".join(group) for group in names)
