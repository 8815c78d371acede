"""Make a source of any torchvision dataset object, to write `.beton` files from Python.

    source = from_torchvision(torchvision.datasets.ImageFolder("photos/train"), "train")
    write_split(source, "train", everything(source.classes), Encoding(), Path("train.beton"))

If the dataset lists its files (`samples` or `imgs`), they are read byte for byte, and the result
equals the `.beton` file written from the tree of class folders. Otherwise items are read one at a
time and passed to the encoder as PNG.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from writers.errors import UserError
from writers.source import Example, Source, below_class, named_examples
from writers.text_names import counted

LAYOUT = "from Python, any dataset of torchvision (writers/sources/torchvision_dataset.py)"


class VisionDataset(Protocol):
    """The methods of torchvision's VisionDataset that are used here."""

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...

    def __len__(self) -> int: ...


def from_torchvision(dataset: VisionDataset, split: str, *, name: str = "") -> Source:
    """Make a source of one split from a dataset, with its own labels and order of classes.

    Args:
        dataset: items must be PIL images or uint8 arrays, [H, W] or [H, W, 3], after its transform.
        split: name of the split.
        name: name of the dataset, by default the name of its class.

    Raises:
        UserError: labels are not class numbers, or there are fewer class names than labels.
    """
    paths = [
        str(path)
        for path, *_ in getattr(dataset, "samples", None) or getattr(dataset, "imgs", None) or ()
    ]
    labels = _labels(dataset)
    classes = _classes(dataset, labels)
    name = name or type(dataset).__name__.lower()
    splits: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    if paths:
        images = {
            path: (classes[label], below_class(path, classes[label]))
            for path, label in zip(paths, labels, strict=True)
        }
        splits[split] = named_examples(
            images, {class_name: label for label, class_name in enumerate(classes)}
        )
        return Source(name, name, classes, splits, _PathFiles())
    splits[split] = [
        Example(f"{number:07d}", label, f"{classes[label]}/{split}{number:07d}")
        for number, label in enumerate(labels)
    ]
    return Source(name, name, classes, splits, _ItemFiles(dataset, name))


class _PathFiles:
    def names(self) -> Sequence[str]:
        return ()

    def read(self, name: str) -> bytes:
        return Path(name).read_bytes()

    def where(self, name: str) -> str:
        return name


class _ItemFiles:
    """Encode items as PNG, one at a time, because datasets need not be thread-safe."""

    def __init__(self, dataset: VisionDataset, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._lock = threading.Lock()

    def names(self) -> Sequence[str]:
        return [f"{number:07d}" for number in range(len(self._dataset))]

    def read(self, name: str) -> bytes:
        with self._lock:
            image, _ = self._dataset[int(name)]
        return _png(image, self.where(name))

    def where(self, name: str) -> str:
        return f"{self._name}, image {int(name)}"


def _png(image: Any, where: str) -> bytes:
    if not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or pixels.shape[2:] not in ((), (3,))
        ):
            raise UserError(
                f"{where} is neither a PIL image nor a uint8 array [H, W] or [H, W, 3].",
                "Make the dataset without a transform.",
            )
        image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    # the modes that PNG can store
    keeps = image.mode in (
        "1",
        "L",
        "LA",
        "P",
        "RGB",
        "RGBA",
        "I",
        "I;16",
    )
    (image if keeps else image.convert("RGB")).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _labels(dataset: VisionDataset) -> list[int]:
    if samples := getattr(dataset, "samples", None) or getattr(dataset, "imgs", None):
        labels = [label for _, label, *_ in samples]
    else:
        own_labels = next(
            (
                getattr(dataset, name)
                for name in ("targets", "labels", "_labels")
                if hasattr(dataset, name)
            ),
            None,
        )
        labels = (
            list(own_labels)
            if own_labels is not None
            else [dataset[index][1] for index in range(len(dataset))]
        )
    if len(labels) != len(dataset) or not all(
        np.ndim(label) == 0 and int(label) == label >= 0 for label in labels
    ):
        raise UserError(
            f"The labels of {type(dataset).__name__} are not class numbers.",
            "Use a dataset with one class per image.",
        )
    return [int(label) for label in labels]


def _classes(dataset: VisionDataset, labels: Sequence[int]) -> list[str]:
    number = max(labels, default=-1) + 1
    of_name: Mapping[str, int] | None = getattr(dataset, "class_to_idx", None)
    # prefer `wnids`: the `classes` of torchvision's ImageNet are tuples of synonyms
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if names is None and of_name:
        names = sorted(of_name, key=lambda class_name: of_name[class_name])
    classes = (
        [str(class_name) for class_name in names]
        if names is not None
        else [f"{label:04d}" for label in range(number)]
    )
    if len(classes) < number:
        raise UserError(
            f"{type(dataset).__name__} has {counted(number, 'label')} and names "
            f"{counted(len(classes), 'class')}."
        )
    return classes
