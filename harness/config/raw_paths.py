"""Where a recipe's raw images lie, and which of them are not there yet."""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path

from harness.config.recipe import DataSettings, Recipe
from writers import names


def raw_path(data: DataSettings, raw: Path) -> Path:
    """Where a dataset's images lie: absolute, or relative to the raw folder."""
    return raw / Path(data.path or raw_folder(data.dataset)).expanduser()


def raw_folder(dataset: str) -> str:
    """The name of a dataset's folder in the raw folder: its own, or one that it shares."""
    spec = names.find("writers.datasets", dataset, "dataset").SPEC
    return str(spec.folder or spec.name)


def missing(recipe: Recipe, raw: Path, labels: Collection[str]) -> dict[str, str]:
    """Label -> what to fetch and from where, for each dataset of `labels` whose images are not in `raw`."""
    found = {}
    for data in (*([recipe.source] if recipe.source else []), *recipe.targets):
        spec = import_module(f"writers.datasets.{data.dataset}").SPEC
        path = raw_path(data, raw)
        if data.label in labels and not spec.generated and not path.exists():
            found[data.label] = f"There is no {path}." + (
                f" {spec.title}: {spec.where}" if data.dataset != "folder" else ""
            )
    return found
