"""Find the raw images of a recipe's datasets on disk, and list missing ones."""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.data import DataSettings
from writers import names
from writers.labels.settings import LabelTable

if TYPE_CHECKING:  # workers import this module, but never read a recipe
    from harness.config.recipe import Recipe


def raw_path(data: DataSettings, raw: Path) -> Path:
    """Path of a dataset's images: absolute, or below the raw folder."""
    return raw / Path(data.path or raw_folder(data.dataset)).expanduser()


def label_table(data: DataSettings, raw: Path) -> LabelTable | None:
    """Table of a dataset's labels, if there is one: absolute, or below the raw folder."""
    return None if data.labels is None else data.labels.below(raw)


def raw_folder(dataset: str) -> str:
    """Name of a dataset's folder below the raw folder; some datasets share one."""
    spec = names.find("writers.datasets", dataset, "dataset").SPEC
    return str(spec.folder or spec.name)


def missing(recipe: "Recipe", raw: Path, labels: Collection[str]) -> dict[str, str]:
    """Find datasets whose images or table of labels are missing, among those with these labels.

    Returns:
        Label of each such dataset -> line that names the missing path, and for known datasets where
        to get the images.
    """
    missing_data = {}
    for _, data in recipe.datasets:
        spec = import_module(f"writers.datasets.{data.dataset}").SPEC
        path = raw_path(data, raw)
        if data.label not in labels or spec.generated:
            continue
        table = label_table(data, raw)
        absent = next((file for file in (table.paths if table else ()) if not file.exists()), None)
        if absent is not None:
            missing_data[data.label] = f"There is no table of labels {absent}."
        if not path.exists():
            here = Path(data.path).expanduser() if data.path else None
            if here is not None and here.exists():
                hint = f" {here} exists in the current folder: pass --raw-dir . to use it."
            else:
                hint = f" {spec.title}: {spec.where}" if data.dataset != "folder" else ""
            missing_data[data.label] = f"There is no {path}.{hint}"
    return missing_data
