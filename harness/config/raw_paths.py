"""Paths of the raw images and tables of labels of a recipe's datasets."""

from pathlib import Path

from harness.config.data import DataSettings
from writers import names
from writers.labels.settings import LabelTable


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
