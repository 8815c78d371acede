"""Any tree of class folders, or an uncompressed tar of one: a person's own photographs."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(name="folder", title="Any tree of class folders", metric="top1",
                   where="Name it: --source DIR, or path: in a recipe.")


def open(path: Path, settings: SplitSettings) -> Source:
    return open_source(path, settings, name=path.name.split(".")[0])
