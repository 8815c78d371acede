"""Choose the images of a split that belong to a subset, with their labels and order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from writers.errors import UserError
from writers.random_streams import random_bits
from writers.source import Example, Source, ids_of
from writers.subset.spec import Subset
from writers.text_names import counted, preview


def chosen(source: Source, split: str, subset: Subset, seed: int) -> list[Example]:
    """Choose the examples of a split that are written to a beton.

    Args:
        source: images of the dataset.
        split: train, val or test.
        subset: classes, labels and images to take.
        seed: seed of the order in the file, which depends only on the seed and the image names.

    Returns:
        Examples with the subset's labels, in the order of the file.

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
    positions_in_order = np.argsort(random_bits(seed, "order", ids[positions]), kind="stable")
    examples = [
        replace(in_split[positions[index]], label=int(labels[index]))
        for index in positions_in_order
    ]
    missing = missing_classes(subset, example_counts(examples, len(subset.classes)), split)
    # Birdsnap keeps the labels of species without images.
    if missing and not (examples and source.differences):
        raise UserError(
            f"Split {split} of {source.name} has no image of {missing}.",
            "Each class needs at least one training image.",
        )
    return examples


def missing_classes(subset: Subset, counts: np.ndarray, split: str) -> str:
    """Describe the classes whose lack of images is an error; "" if there are none.

    In val and test, a class may be without images, unless all are. `counts` are the images of each
    class, int64 [K].
    """
    if counts.any() and split != "train":
        return ""
    return _empty_classes(subset, counts)


def absent_classes(subset: Subset, examples: Sequence[Example]) -> str:
    """Describe the classes that none of `examples` has; "" if there are none."""
    return _empty_classes(subset, example_counts(examples, len(subset.classes)))


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
