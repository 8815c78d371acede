"""Which samples of a beton a plan sees, where their bytes lie, and in which order an epoch takes them.

Reads the tables of the file and no image. What would make FFCV read nonsense is refused here: FFCV itself opens a
half-written file without a word, and takes the whole of it for its table of images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.augment import quasi_random_order, random_order
from loaders.plan import LoaderPlan
from writers.beton.encoding import DCT, JPEG, RAW
from writers.beton.store import Beton, damaged, has_fields_of, open_beton
from writers.errors import UserError
from writers.subset.base import preview
from writers.subset.spec import Subset


@dataclass(frozen=True)
class Samples:
    """The samples that a plan sees, as columns of equal length N in the order of the view."""

    path: Path
    classes: tuple[str, ...]  # in label order, after relabelling
    indices: np.ndarray  # int64: each sample's place in the file
    ids: (
        np.ndarray
    )  # uint64: by which order and crops are drawn, the same in every file that holds the sample
    labels: (
        np.ndarray
    )  # int64, after relabelling; int8 [N, K] where an image has many: 1 there, 0 difficult, -1 not
    modes: np.ndarray  # uint8: 0 JPEG, 1 raw, 2 dct
    widths: np.ndarray  # int64, pixels
    heights: np.ndarray  # int64, pixels
    offsets: np.ndarray  # int64: first byte of the image in the file
    sizes: np.ndarray  # int64, bytes

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    def num_batches(self, plan: LoaderPlan) -> int:
        """This rank's batches per epoch. A set smaller than a batch gives one short batch, also with drop_last: never none."""
        whole, rest = divmod(len(self), plan.batch_size)
        if plan.drop_last and whole:
            return whole
        return whole + (rest > plan.rank)

    def order(self, plan: LoaderPlan, epoch: int, start_batch: int = 0) -> np.ndarray:
        """This rank's samples of the epoch from a batch on, as positions in these columns: int64. Cut into lengths of
        `plan.share` they are its batches. Without what drop_last leaves out.

        Raises UserError for a batch beyond the end."""
        num_batches = self.num_batches(plan)
        if not 0 <= start_batch <= num_batches:
            raise UserError(
                f"An epoch of {self.path} has {num_batches} batches; it cannot start at batch {start_batch}.",
                "Batches are counted from 0. An epoch is gone on with by the plan that it was begun with.",
            )
        if plan.order == "random":
            positions = random_order(plan.seed, epoch, self.ids)
        elif plan.order == "quasi_random":
            positions = quasi_random_order(plan.seed, epoch, self.ids, self.offsets)
        else:
            positions = np.arange(len(self))
        if plan.drop_last and len(self) >= plan.batch_size:
            positions = positions[: len(self) // plan.batch_size * plan.batch_size]
        # Each batch is dealt out in turn: with a batch that the ranks do not divide, this is not every W-th of the whole.
        mine = np.arange(len(positions)) % plan.batch_size % plan.world_size == plan.rank
        return positions[mine][start_batch * plan.share :]

    def batches(self, plan: LoaderPlan, epoch: int, start_batch: int = 0) -> list[np.ndarray]:
        """The same, batch by batch."""
        order = self.order(plan, epoch, start_batch)
        return [order[start : start + plan.share] for start in range(0, len(order), plan.share)]

    def damaged(self, position: int, why: str) -> UserError:
        """The error for a sample whose bytes do not decode."""
        return UserError(
            f"Sample {self.indices[position]} of {self.path} does not decode: {why}.",
            f"Its JPEG has {self.sizes[position]:,} bytes, from byte {self.offsets[position]:,} on. See "
            f"what else `harness verify {self.path}` finds, and write the beton again.",
        )

    def all_damaged(self, num_images: int, last: UserError) -> UserError:
        """The error for a batch of which on_corrupt: skip leaves nothing. To leave it out would part this rank's steps from the
        others'."""
        return UserError(
            f"Each of the {num_images} images of a batch is damaged. {last.message}", last.hint
        )


def open_samples(plan: LoaderPlan) -> Samples:
    """The plan's samples. Raises UserError for a file that is absent, damaged, or no beton of images and labels; for an
    index or a label that the file does not have; and for a view with no sample left in it."""
    beton = open_beton(plan.beton)
    rows, sizes = beton.rows, _checked_sizes(beton)
    classes = tuple(beton.manifest.classes)
    if plan.subset is not None:
        indices, labels = _selected(plan.subset, beton)
        classes = plan.subset.classes
    else:
        indices = _viewed(plan, len(rows))
        labels, classes = _relabelled(plan, beton.labels[indices], classes)
        if labels.ndim == 1:
            used = labels >= 0
            indices, labels = indices[used], labels[used]
    if not len(indices):
        raise UserError(
            f"{plan.beton}: the view has no sample.", "The plan's indices and labels leave all out."
        )
    if (
        len(indices) < plan.world_size
    ):  # the rank without one would have no batch, and the others would wait for it
        raise UserError(
            f"{plan.beton}: the view has {len(indices)} samples for {plan.world_size} ranks.",
            "Use at most as many ranks as there are samples.",
        )
    chosen = rows[indices]
    return Samples(
        plan.beton,
        classes,
        indices,
        beton.ids[indices],
        labels,
        chosen["mode"].copy(),
        chosen["width"].astype(np.int64),
        chosen["height"].astype(np.int64),
        chosen["offset"].astype(np.int64),
        sizes[indices],
    )


def decoded_bytes(samples: Samples) -> int:
    """What the samples take as uint8 pixels in their stored sizes."""
    return int((3 * samples.widths * samples.heights).sum())


def _checked_sizes(beton: Beton) -> np.ndarray:
    """Bytes of each sample's image, int64 [all of the file]. Raises UserError where a kernel could read beyond them."""
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


def _selected(subset: Subset, beton: Beton) -> tuple[np.ndarray, np.ndarray]:
    """What the subset takes of the file: places and new labels, both int64."""
    manifest = beton.manifest
    if missing := sorted(set(subset.source_classes) - set(manifest.classes)):
        raise UserError(
            f"{beton.path} lacks {len(missing)} of the classes of subset {subset.name}: {preview(missing)}.",
            "A view can only take from what was written.",
        )
    if beton.labels.ndim != 1:
        raise UserError(
            f"{beton.path} has images with many labels; a subset of classes cannot be taken of it."
        )
    return subset.select(manifest.split, manifest.classes, beton.labels, beton.ids)


def _viewed(plan: LoaderPlan, num_in_file: int) -> np.ndarray:
    if plan.indices is None:
        return np.arange(num_in_file)
    indices = np.asarray(plan.indices)
    outside = indices[(indices < 0) | (indices >= num_in_file)]
    if len(outside):
        raise UserError(
            f"LoaderPlan.indices asks for sample {outside[0]} of {num_in_file} in {plan.beton}."
        )
    return indices


def _relabelled(
    plan: LoaderPlan, labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """New labels (-1: not used), and their names; a class made of several carries all of theirs, one of none ''.

    Many labels an image (int8 [N, K]) stay as they are.
    """
    if labels.ndim == 2:
        if plan.labels is not None:
            raise UserError(
                f"LoaderPlan.labels relabels classes; each image of {plan.beton} has many labels."
            )
        if not np.isin(labels, (-1, 0, 1)).all():
            raise damaged(plan.beton, "it has labels that are none of -1, 0 and 1")
        return labels, classes
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(
            f"{plan.beton} has labels from {labels.min()} to {labels.max()} for {len(classes)} classes.",
            "Write it again with `harness write-beton`.",
        )
    if plan.labels is None:
        return labels.copy(), classes
    if len(plan.labels) != len(classes):
        raise UserError(
            f"LoaderPlan.labels relabels {len(plan.labels)} classes; {plan.beton} has {len(classes)}."
        )
    table = np.array(plan.labels, np.int64)
    if min(plan.labels) < -1:
        raise UserError(
            f"LoaderPlan.labels has the label {min(plan.labels)}; the lowest is -1, for a class not used."
        )
    names: list[list[str]] = [[] for _ in range(max(plan.labels) + 1)]
    for name, label in zip(classes, plan.labels, strict=True):
        if label >= 0:
            names[label].append(name)
    return table[labels], tuple("+".join(group) for group in names)
