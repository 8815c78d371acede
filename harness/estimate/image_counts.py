"""How many images a write stage leaves in each split: from its result, else from what is documented of its dataset.

What a subset takes of a dataset that is not there is found by applying its steps to an imagined source of as many images, as
many of each class. Imports no torch.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.config.recipe import DataSettings
from harness.matrix.stage import Stage
from harness.matrix.workload import Counts
from harness.runner import result
from writers.dataset import DatasetSpec, spec_of
from writers.errors import UserError
from writers.subset.class_steps import Listed
from writers.subset.ranking import Ranking
from writers.subset.spec import SubsetSpec, imagenet_classes, resolve


class ImageCounts:
    """Of any write stage, each looked up once."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[str, Counts | None] = {}

    def of(self, write: Stage) -> Counts | None:
        """None where nobody knows before the images are there."""
        if write.key not in self._known:
            self._known[write.key] = _written(write.folder(self._runs)) or _documented(write.config)
        return self._known[write.key]


def _written(folder: Path) -> Counts | None:
    try:
        metrics = json.loads((folder / result.FILE_NAME).read_text())["metrics"]
        return Counts(
            {split: int(of["num_samples"]) for split, of in metrics["splits"].items()},
            len(metrics["classes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not written yet; or damaged, and whoever needs it says so


def _documented(config: dict[str, Any]) -> Counts | None:
    data = DataSettings.model_validate(config["data"])
    spec = spec_of(data.dataset)
    protocol = data.protocol or spec.default_protocol
    sizes, num_classes = (
        _with_carved(spec.sizes(protocol), data, config["splits"]),
        spec.classes(protocol),
    )
    if sizes is None or num_classes is None:
        return None
    if config["subset"] is None:
        return Counts(sizes, num_classes)
    try:
        return _taken(SubsetSpec.model_validate(config["subset"]), spec, sizes, num_classes)
    except UserError:  # a step that needs to see the source
        return None


def _with_carved(
    sizes: dict[str, int], data: DataSettings, splits: list[str]
) -> dict[str, int] | None:
    """With what is carved out of train where a split is missing (`writers.source.carve`)."""
    if "train" not in sizes:
        return None
    shares = {"val": data.val, "test": data.test}
    carved = {
        split: round(shares[split] * sizes["train"]) for split in splits if split not in sizes
    }
    left = {"train": sizes["train"] - sum(carved.values())}
    return {split: count for split, count in {**sizes, **carved, **left}.items() if split in splits}


def _taken(
    subset: SubsetSpec, spec: DatasetSpec, sizes: dict[str, int], num_classes: int
) -> Counts:
    """Of classes whose names are not known, those that the subset lists have theirs, and the others invented ones.

    Raises UserError where that does not do, such as for WordNet's nodes.
    """
    listed = [
        name for step in subset.all_steps if isinstance(step, Listed) for name in step.classes
    ]
    invented = (f"class {number}" for number in range(num_classes))
    classes = (
        imagenet_classes()
        if spec.name == "imagenet"
        else tuple(dict.fromkeys([*listed, *invented]))[:num_classes]
    )
    any_order = Ranking(
        classes, {}, "", ""
    )  # which classes are the hardest does not change how many are left
    counts = {name: sizes["train"] // num_classes for name in classes}
    found = resolve(subset, classes, any_order, class_counts=counts)
    taken = {}
    for split, size in sizes.items():
        if found.choosers:
            labels, ids = np.arange(size) % num_classes, np.arange(size, dtype=np.uint64)
            taken[split] = len(found.select(split, classes, labels, ids)[0])
        else:
            taken[split] = round(size * len(found.source_classes) / num_classes)
    return Counts(taken, len(found.classes))
