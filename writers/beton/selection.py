"""Select the images of a split that belong to a subset, with their labels and order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from writers.errors import UserError
from writers.random_streams import random_bits
from writers.source import Example, Source, ids_of
from writers.subset.spec import Subset
from writers.text_names import counted, preview


@dataclass(frozen=True, eq=False)
class SplitSelection:
    """Images of a split that belong to a subset, in the order in which a beton stores them.

    Attributes:
        source: images of the dataset.
        split: train, val or test.
        subset: classes, labels and images that were selected.
        seed: seed of the order, which depends only on the seed and the image names.
        examples: the images, with the subset's labels.
        ids: uint64 [N], ids of the examples.
        counts: int64 [K], examples of each class of the subset.
    """

    source: Source
    split: str
    subset: Subset
    seed: int
    examples: Sequence[Example]
    ids: np.ndarray
    counts: np.ndarray

    def absent_classes(self) -> str:
        """Describe the classes that none of the examples has; "" if there are none."""
        return _empty_classes(self.subset, self.counts)

    def skipped(self, example: Example, reason: str) -> dict[str, str]:
        """Return the manifest's entry about an example that is not written."""
        return {
            "name": example.name,
            "class": self.subset.classes[example.label],
            "reason": reason,
        }


def select_images(source: Source, split: str, subset: Subset, seed: int) -> SplitSelection:
    """Select the examples of a split that are written to a beton.

    Args:
        source: images of the dataset.
        split: train, val or test.
        subset: classes, labels and images to take.
        seed: seed of the order in the file.

    Raises:
        UserError: the split is unknown or has no image of the subset, a training class has no
            images (unless the source has accepted differences), two images have the same name, or
            images have several labels and the subset lacks a class.
    """
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split}; it has {', '.join(source.splits)}.")
    if source.multi_label and list(subset.classes) != source.classes:
        raise UserError(
            f"An image of {source.name} has several labels; a subset of its classes cannot be "
            "taken.",
            "Write all classes: leave out --subset.",
        )
    in_split = source.splits[split]
    ids = ids_of(in_split)
    if len(np.unique(ids)) < len(ids):
        twice, _ = Counter(example.name for example in in_split).most_common(1)[0]
        raise UserError(
            f"{source.name} has two images called {twice} in {split}.", "Rename one of them."
        )
    positions, labels = subset.select(
        split, source.classes, np.array([example.label for example in in_split], np.int64), ids
    )
    shuffled = np.argsort(random_bits(seed, "order", ids[positions]), kind="stable")
    order = positions[shuffled]
    examples = [
        replace(in_split[position], label=label)
        for position, label in zip(order.tolist(), labels[shuffled].tolist(), strict=True)
    ]
    counts = example_counts(examples, len(subset.classes))
    check_classes(
        subset,
        counts,
        split,
        f"Split {split} of {source.name}",
        has_accepted_differences=bool(source.differences),
    )
    return SplitSelection(source, split, subset, seed, examples, ids[order], counts)


def check_classes(
    subset: Subset, counts: np.ndarray, split: str, name: str, *, has_accepted_differences: bool
) -> None:
    """Check that no class lacks images that it needs.

    In val and test, a class may be without images, unless all are. With accepted differences, this
    also holds in train: Birdsnap keeps the labels of species without images.

    Args:
        subset: classes to check.
        counts: int64 [K], images of each class.
        split: train, val or test.
        name: description of the images, which begins the message.
        has_accepted_differences: counts that differ from the published ones were accepted.

    Raises:
        UserError: classes have no images.
    """
    if counts.any() and (split != "train" or has_accepted_differences):
        return
    if missing := _empty_classes(subset, counts):
        raise UserError(
            f"{name} has no image of {missing}.", "Each class needs at least one training image."
        )


def _empty_classes(subset: Subset, counts: np.ndarray) -> str:
    empty = np.flatnonzero(counts == 0).tolist()
    if not empty:
        return ""
    names = preview([subset.classes[label] for label in empty])
    return f"{len(empty)} of its {counted(len(subset.classes), 'class')}: {names}"


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count images per class, int64 [K], from labels int64 [N]."""
    return np.bincount(labels, minlength=num_classes)


def example_counts(examples: Sequence[Example], num_classes: int) -> np.ndarray:
    """Count examples per class, int64 [K].

    If examples have several labels, each class that is present in an example is counted.
    """
    if examples and examples[0].labels is not None:
        is_present = np.array([example.labels for example in examples]) == 1
        return np.asarray(is_present.sum(0))
    return class_counts(np.array([example.label for example in examples], np.int64), num_classes)
