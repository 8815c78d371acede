"""Your own images in class folders, or in any other form that `writers/sources/` reads."""

from collections.abc import Sequence
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="folder",
    title="Any images in class folders, archives or shards",
    metric="top1",
    where="Name it: --source DIR, or path: in a recipe.",
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the images at one path."""
    return open_all([path], settings)


def open_all(paths: Sequence[Path], settings: SplitSettings) -> Source:
    """Open the images at several paths, each of which contains a split or a part of one."""
    return open_source(paths, settings, name=paths[0].name.split(".")[0])
