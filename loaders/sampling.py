"""Weighted orders: an epoch of N samples has N draws; some samples are drawn several times.

Draws use systematic sampling. Each sample is an interval of an axis whose length is its mean number
of draws per epoch, e. In an epoch, N points at distance 1 with a random offset select the samples.
So each sample is drawn floor(e) or ceil(e) times, which varies less than independent draws. Samples
of a class are adjacent on the axis, so the same is true for the number of draws of each class.

Draws are functions of (seed, epoch, sample ids), computed in integers. The second and later draws
of a sample within an epoch have different ids, and therefore other crops and augmentations.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from writers import text_encoding
from writers.errors import UserError
from writers.random_streams import random_words, sample_ids, seed_of
from writers.text_names import counted

UNIT = 2**32  # units per draw; the units of N draws fit in int64


@dataclass(frozen=True)
class Draws:
    """Possible draws of N samples, as rows. Row r < N is the first draw of sample r.

    Attributes:
        units: int64 [N], mean number of draws per epoch, times UNIT; they sum to N * UNIT.
        layout_labels: int64 [N], classes by which samples are sorted on the axis.
        sample_of_row: int64 [M], M >= N: sample of each row.
        first_more: int64 [N], row of each sample's second draw; its later draws follow this row.
    """

    units: np.ndarray
    layout_labels: np.ndarray
    sample_of_row: np.ndarray
    first_more: np.ndarray


def plan_draws(weights: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> Draws:
    """Compute the mean number of draws of each sample, and list its possible draws.

    Args:
        weights: float64 [N], not negative, with a positive finite sum.
        ids: uint64 [N].
        labels: int64 [N], or int8 [N, K]; the latter are not used.
    """
    by_id = np.argsort(ids, kind="stable")  # sums must not depend on the order of the samples
    sums = np.cumsum(weights[by_id])
    ends = np.rint(sums / sums[-1] * len(ids) * UNIT).astype(np.int64)
    units = np.empty(len(ids), np.int64)
    units[by_id] = np.diff(ends, prepend=0)
    more = np.maximum(-(-units // UNIT) - 1, 0)
    first_more = len(ids) + np.cumsum(more) - more
    samples = np.arange(len(ids))
    return Draws(
        units,
        labels if labels.ndim == 1 else np.zeros(len(ids), np.int64),
        np.concatenate([samples, np.repeat(samples, more)]),
        first_more,
    )


def row_ids(draws: Draws, ids: np.ndarray) -> np.ndarray:
    """Return the id of each row, uint64 [M]. The first draw of a sample has the sample's id."""
    rows = np.arange(len(ids), len(draws.sample_of_row))
    samples = draws.sample_of_row[len(ids) :]
    copies = rows - draws.first_more[samples] + 1
    more = np.empty(len(rows), np.uint64)
    for copy in np.unique(copies).tolist():
        chosen = copies == copy
        more[chosen] = random_words(seed_of(0, "copy"), copy, ids[samples[chosen]], 1)[:, 0]
    return np.concatenate([ids, more])


def drawn_rows(draws: Draws, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """Return the N rows that an epoch draws, int64, without shuffling them.

    Args:
        draws: possible draws.
        seed: seed of the plan.
        epoch: number of the epoch.
        ids: uint64 [N] of the samples.
    """
    words = random_words(seed_of(seed, "layout"), epoch, ids, 1)[:, 0]
    layout = np.lexsort((words, draws.layout_labels))
    ends = np.cumsum(draws.units[layout])
    offset = int(
        random_words(seed_of(seed, "offset"), epoch, np.zeros(1, np.uint64), 1)[0, 0]
        >> np.uint64(32)
    )
    points = np.arange(len(ids), dtype=np.int64) * UNIT + offset
    chosen = layout[np.searchsorted(ends, points, side="right")]
    # Draws of a sample are adjacent in `chosen`. `copies` numbers them from 0.
    starts = np.flatnonzero(np.diff(chosen, prepend=-1))
    lengths = np.diff(starts, append=len(chosen))
    copies = np.arange(len(chosen)) - np.repeat(starts, lengths)
    return np.where(copies == 0, chosen, draws.first_more[chosen] + copies - 1)


def balanced_weights(labels: np.ndarray, path: Path) -> np.ndarray:
    """Return weights with an equal sum in each class, float64 [N]. labels: int64 [N].

    Raises:
        UserError: images have several labels.
    """
    if labels.ndim != 1:
        raise UserError(
            f"Images of {path} have several labels; order: balanced needs one label per image.",
            "Use order: weighted with weights of your own.",
        )
    weights: np.ndarray = 1 / np.bincount(labels)[labels]
    return weights


def read_weights(
    file: Path, classes: tuple[str, ...], labels: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Read the weight of each sample of a `.beton` file, [N]. `check_weights` checks the result.

    Args:
        file: a .npy array of N numbers in the order of the samples, or a CSV file with the columns
            `class` and `weight`, or `image` (`<class>/<file name>`) and `weight`.
        classes: class names in label order.
        labels: int64 [N], labels as stored.
        ids: uint64 [N].

    Raises:
        UserError: the file cannot be read, lacks a weight, or names a class or image twice.
    """
    if file.suffix == ".npy":
        try:
            array: np.ndarray = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} cannot be read as an array: {error}") from error
        return array
    columns = _read_columns(file)
    weights = columns["weight"]
    names = columns.get("class", columns.get("image", ()))
    if twice := len(names) - len(set(names)):
        raise UserError(f"{file} names {twice} of its rows twice.", "Keep one row for each.")
    try:
        numbers = np.array([float(weight) for weight in weights])
    except ValueError as error:
        raise UserError(
            f"{file} has a weight that is not a number: {error}", "Correct that line."
        ) from error
    if "class" in columns:
        known = dict(zip(names, numbers, strict=True))
        used = [classes[label] for label in np.unique(labels)]
        if missing := [name for name in used if name not in known]:
            raise UserError(
                f"{file} has no weight for {counted(len(missing), 'class')}, such as {missing[0]}.",
                "Add a row for each class.",
            )
        of_classes: np.ndarray = np.array([known.get(name, 0.0) for name in classes])
        return np.take(of_classes, labels)
    listed = sample_ids(names)
    order = np.argsort(listed)
    places = np.searchsorted(listed, ids, sorter=order).clip(0, max(0, len(listed) - 1))
    found = listed[order[places]] == ids if len(listed) else np.zeros(len(ids), bool)
    if not found.all():
        raise UserError(
            f"{file} has no weight for {int((~found).sum())} of the {counted(len(ids), 'image')}.",
            "Images are named <class>/<file name>, as in the folder that was written.",
        )
    weights_of_images: np.ndarray = numbers[order[places]]
    return weights_of_images


def _read_columns(file: Path) -> dict[str, list[str]]:
    try:
        text = text_encoding.decode(file.read_bytes(), file)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}") from error
    columns = set(rows[0]) if rows else set()
    if columns not in ({"class", "weight"}, {"image", "weight"}):
        raise UserError(
            f"{file} has the columns {', '.join(sorted(map(str, columns))) or 'none'}.",
            "It needs `class` and `weight`, or `image` and `weight`.",
        )
    return {column: [str(row[column]) for row in rows] for column in columns}


def check_weights(weights: np.ndarray, num_samples: int) -> np.ndarray:
    """Return weights as float64 [N].

    Raises:
        UserError: their number or one of their values is wrong.
    """
    array = np.asarray(weights)
    if array.shape != (num_samples,) or array.dtype.kind not in "fiu":
        raise UserError(
            f"LoaderPlan.weights has {array.dtype} values of shape {array.shape}; the beton has "
            f"{counted(num_samples, 'sample')}, with one number each."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all() or array.min(initial=0) < 0:
        raise UserError("LoaderPlan.weights has a value that is negative or not finite.")
    return array
