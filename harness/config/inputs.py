"""Input files that determine a recipe's results: raw images, weights and class lists.

Other files, such as subsets, rankings and base recipes, are read into the recipe itself, with
their content or its digest.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.base import JSON
from harness.config.data import DataSettings
from harness.config.model import LIST_EXTENSIONS, ModelSettings
from harness.config.raw_paths import label_table, raw_path
from harness.config.zoo_names import is_pattern
from writers.dataset import spec_of
from writers.labels.settings import LabelTable

if TYPE_CHECKING:  # workers import this module, but never read a recipe
    from harness.config.recipe import Recipe

# Name of an input -> digest of its contents, or PUBLISHED. Name of `BetonLabels` -> kind of labels.
# Inputs whose contents are unknown are left out.
Contents = Mapping[str, str]
NO_CONTENTS: Contents = {}
# Contents of published weights, unless the file has changed since the model was first loaded.
PUBLISHED = "published"


@dataclass(frozen=True)
class Images:
    """Raw images of a dataset."""

    data: DataSettings

    @property
    def name(self) -> str:
        """Name in `Contents`: the settings that decide which images and labels are read.

        It depends neither on splits drawn from train nor on the encoding.
        """
        data = self.data
        rules: list[JSON] = []
        if data.labels is not None:
            rules.append(data.labels.model_dump(mode="json"))
        if not data.folders.is_default:
            rules.append(asdict(data.folders))
        return json.dumps(["images", data.dataset, data.path, data.protocol, *rules])

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"images of {self.data.label}"

    def path(self, raw: Path) -> Path:
        """Folder or archive of the images."""
        return raw_path(self.data, raw)

    def table(self, raw: Path) -> LabelTable | None:
        """Table of the images' labels, if there is one."""
        return label_table(self.data, raw)


@dataclass(frozen=True)
class Checkpoint:
    """File of a model's weights, given by its path."""

    model: ModelSettings
    weights_dir: str

    @property
    def name(self) -> str:
        """Name in `Contents`."""
        return json.dumps(["checkpoint", self.weights_dir, self.model.checkpoint])

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"weights of {self.model.name}"

    def path(self, raw: Path) -> Path:
        """Path of the file."""
        folder = raw / Path(self.weights_dir).expanduser()
        return folder / Path(self.model.checkpoint or "").expanduser()


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights of torchvision or timm in the recipe's folder of weights."""

    model: ModelSettings
    weights_dir: str

    @property
    def name(self) -> str:
        """Name in `Contents`."""
        return json.dumps(["weights", self.weights_dir, self.model.name])

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"weights of {self.model.name}"

    def path(self, raw: Path) -> Path:
        """Folder that contains the file. The stage that loads the model finds the file's name."""
        return raw / Path(self.weights_dir).expanduser()


@dataclass(frozen=True)
class ClassList:
    """File with the classes of a checkpoint's head."""

    model: ModelSettings

    @property
    def name(self) -> str:
        """Name in `Contents`."""
        return json.dumps(["classes", self.model.classes])

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"classes of {self.model.name}"

    def path(self, raw: Path) -> Path:
        """Path of the file, relative to the current folder."""
        return Path(self.model.classes or "").expanduser()


@dataclass(frozen=True)
class BetonLabels:
    """Kind of labels of a `.beton` file: one label, several, or boxes per image.

    It is not an `Input`, because the contents of the file determine it.
    """

    data: DataSettings

    @property
    def name(self) -> str:
        """Name in `Contents`; the contents are a `LabelKind`."""
        return json.dumps(["label kind", self.data.path])

    def path(self, raw: Path) -> Path:
        """Path of the beton, or of a folder of betons."""
        return raw_path(self.data, raw)


Input = Images | Checkpoint | PublishedWeights | ClassList


def inputs_of(recipe: "Recipe") -> Iterator[Input]:
    """Iterate over the inputs of a recipe, each once."""
    found: dict[str, Input] = {}
    for _, data in recipe.datasets:
        if not spec_of(data.dataset).generated:
            found.setdefault(Images(data).name, Images(data))
    for model in recipe.models:
        for item in inputs_of_model(model, recipe.weights_dir):
            found.setdefault(item.name, item)
    yield from found.values()


def beton_labels(recipe: "Recipe") -> Iterator[BetonLabels]:
    """Iterate over the recipe's datasets that are existing `.beton` files."""
    for _, data in recipe.datasets:
        if data.is_beton:
            yield BetonLabels(data)


def inputs_of_model(model: ModelSettings, weights_dir: str) -> Iterator[Input]:
    """Iterate over the files that determine the weights and classes of one model."""
    if model.checkpoint is not None:
        yield Checkpoint(model, weights_dir)
        if model.classes is not None and model.classes.endswith(LIST_EXTENSIONS):
            yield ClassList(model)
    elif "/" in model.name and not is_pattern(model.name):
        yield PublishedWeights(model, weights_dir)
