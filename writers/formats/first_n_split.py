"""Split a tree of class folders: a fixed number of images per class for train, all others for test.

A tree that has splits keeps them.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from writers.errors import UserError
from writers.formats.split_lists import with_own_splits
from writers.random_streams import random_bits
from writers.source import Example, Source, SplitSettings, carve, ids_of, open_source
from writers.text_names import counted


def first_of_each(
    path: Path,
    settings: SplitSettings,
    *,
    name: str,
    number: int | None,
    exclude: Collection[str] = (),
    drawn: bool = False,
    classes: Sequence[str] | None = None,
) -> Source:
    """Open the tree at `path` with `number` images per class in train.

    If the tree has splits, they are kept (see `with_own_splits`). Otherwise val is drawn.

    Args:
        path: tree of class folders, or an archive of one.
        settings: fraction of val, and seed.
        name: name of the dataset.
        number: training images per class. None splits by the fractions of `settings`.
        exclude: class folders to ignore.
        drawn: draw the training images, with a fixed seed, instead of taking the first by name.
        classes: known classes in label order. None uses the sorted folder names.

    Raises:
        UserError: a class has no image left for test.
    """
    source = open_source(
        path, replace(settings, val=0.0, test=0.0), name=name, exclude=exclude, classes=classes
    )
    if source.splits["val"] or source.splits["test"]:
        return with_own_splits(source, settings)
    # Images in folders inside of a class folder are not part of these datasets.
    images = [example for example in source.splits["train"] if example.name.count("/") == 1]
    if number is None:
        source.splits = carve(images, [], [], settings)
        return source
    by_class: dict[int, list[Example]] = defaultdict(list)
    for example in images:
        by_class[example.label].append(example)
    train: list[Example] = []
    test: list[Example] = []
    for label, examples in sorted(by_class.items()):
        if len(examples) <= number:
            raise UserError(
                f"Class {source.classes[label]} of {path} has {counted(len(examples), 'image')}; "
                f"{number} are needed for training and at least one for test.",
                f"Check that the dataset is complete: harness verify-raw {name}",
            )
        if drawn:
            examples = [
                examples[index]
                for index in np.argsort(random_bits(0, "first", ids_of(examples)), kind="stable")
            ]
        train += examples[:number]
        test += examples[number:]
    train, test = (sorted(part, key=lambda example: example.key) for part in (train, test))
    source.splits = carve(train, [], test, settings)
    return source
