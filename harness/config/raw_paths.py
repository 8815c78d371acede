"""Paths of a recipe's raw images, and which of them are missing."""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path

from harness.config.recipe import DataSettings, Recipe
from writers import names


def raw_path(data: DataSettings, raw: Path) -> Path:
    """Path of a dataset's images: absolute, or below the raw folder."""
    return raw / Path(data.path or raw_folder(data.dataset)).expanduser()


def raw_folder(dataset: str) -> str:
    """Name of a dataset's folder below the raw folder; some datasets share one."""
    spec = names.find("writers.datasets", dataset, "dataset").SPEC
    return str(spec.folder or spec.name)


def missing(recipe: Recipe, raw: Path, labels: Collection[str]) -> dict[str, str]:
    """Map the labels of datasets without images in `raw` to a line on where to get them."""
    missing_data = {}
    for data in (*([recipe.source] if recipe.source else []), *recipe.targets):
        spec = import_module(f"writers.datasets.{data.dataset}").SPEC
        path = raw_path(data, raw)
        if data.label in labels and not spec.generated and not path.exists():
            missing_data[data.label] = f"There is no {path}." + (
                f" {spec.title}: {spec.where}" if data.dataset != "folder" else ""
            )
    return missing_data
