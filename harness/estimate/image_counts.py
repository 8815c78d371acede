"""Number of images in each split that a write stage writes. Imports no torch.

The numbers are read from the stage's result, or else follow from the documented size of the
dataset. A subset of a dataset that is not on disk is resolved on a made-up source, in which all
classes have equally many images.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.config.data import DataSettings
from harness.matrix.stage import Stage, canonical
from harness.matrix.workload import Counts
from harness.runner import result
from writers.dataset import DatasetSpec, spec_of
from writers.errors import UserError
from writers.subset.class_steps import Listed
from writers.subset.lists import imagenet_classes
from writers.subset.ranking import Ranking
from writers.subset.scores import hypothetical
from writers.subset.spec import SubsetSpec, resolve


class ImageCounts:
    """Image counts of write stages, each computed once."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[str, Counts | None] = {}
        self._similar: dict[str, Counts | None] = {}

    def of(self, write: Stage) -> Counts | None:
        """Return the counts; None if they are unknown until the images are on disk."""
        if write.key not in self._known:
            config = write.config
            if write.kind == "view":
                subset = {"name": "view", **config["subset"]}
                config = {**write.needs["data"].config, "subset": subset}
            self._known[write.key] = _written(write.folder(self._runs)) or self._documented(config)
        return self._known[write.key]

    def _documented(self, config: dict[str, Any]) -> Counts | None:
        """Compute one count for all configs that differ in name, seed or target only."""
        similar = canonical(_without(config, ("name", "seed", "target")))
        if similar not in self._similar:
            self._similar[similar] = _documented(config)
        return self._similar[similar]


def _written(folder: Path) -> Counts | None:
    try:
        metrics = json.loads((folder / result.FILE_NAME).read_text())["metrics"]
        return Counts(
            {split: int(row["num_samples"]) for split, row in metrics["splits"].items()},
            len(metrics["classes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not written yet, or damaged; code that needs the result raises


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """Copy JSON without the fields of these names."""
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def _documented(config: dict[str, Any]) -> Counts | None:
    data = DataSettings.model_validate(config["data"])
    spec = spec_of(data.dataset)
    protocol = data.protocol or spec.default_protocol
    sizes, num_classes = (
        _add_carved(spec.sizes(protocol), data, config["splits"]),
        spec.classes(protocol),
    )
    if sizes is None or num_classes is None:
        return None
    if config["subset"] is None:
        return Counts(sizes, num_classes)
    try:
        return _subset_counts(SubsetSpec.model_validate(config["subset"]), spec, sizes, num_classes)
    except UserError:  # a step needs the source's files
        return None


def _add_carved(
    sizes: dict[str, int], data: DataSettings, splits: list[str]
) -> dict[str, int] | None:
    """Add splits that are taken from train (`writers.source.carve`); None if there is no train."""
    if "train" not in sizes:
        return None
    shares = {"val": data.val, "test": data.test}
    carved = {
        split: round(shares[split] * sizes["train"]) for split in splits if split not in sizes
    }
    left = {"train": sizes["train"] - sum(carved.values())}
    return {split: count for split, count in {**sizes, **carved, **left}.items() if split in splits}


def _subset_counts(
    subset: SubsetSpec, spec: DatasetSpec, sizes: dict[str, int], num_classes: int
) -> Counts:
    """Count the images of a subset of a dataset that is not on disk.

    Classes that the subset names keep their names; all other classes get made-up names.

    Raises:
        UserError: A step needs the real names of classes, for example to find WordNet nodes.
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
    # Any order of the classes gives the same number of remaining classes.
    any_order = Ranking(classes, {}, "", "")
    counts = {name: sizes["train"] // num_classes for name in classes}
    ids_of_train = np.arange(sizes["train"], dtype=np.uint64) if subset.requests else np.zeros(0)
    any_scores = {
        request.role: hypothetical(request, tuple(classes), ids_of_train)
        for request in subset.requests
    }
    resolved = resolve(subset, classes, any_order, class_counts=counts, scores=any_scores)
    taken = {}
    for split, size in sizes.items():
        if resolved.choosers:
            labels, ids = np.arange(size) % num_classes, np.arange(size, dtype=np.uint64)
            taken[split] = len(resolved.select(split, classes, labels, ids)[0])
        else:
            taken[split] = round(size * len(resolved.source_classes) / num_classes)
    return Counts(taken, len(resolved.classes))
