"""A tree of images and a data folder, for tests of the reuse of existing `.beton` files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from writers.beton import reuse
from writers.beton.encoding import Encoding
from writers.beton.provenance import open_with_origin, record
from writers.beton.store import manifest_path
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.source import SplitSettings
from writers.subset.spec import Subset, everything

TWO = Subset("two", ("owl", "cat"))  # a subset whose label order differs from the source's
PETS = Subset("pets", ("bird", "pet"), (("owl",), ("cat", "dog")))  # a subset of coarser labels


@dataclass
class Workspace:
    """An opened tree of images, and a data folder with betons."""

    tree: Path
    data: Path
    settings: SplitSettings
    encoding: Encoding

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """Read the tree and the settings again after a change."""
        self.source, self.origin = open_with_origin("folder", [self.tree], self.settings)

    def write(
        self,
        subset: Subset | None = None,
        name: str = "whole",
        split: str = "train",
        **options: Any,
    ) -> Path:
        """Write a beton from the images, and record its origin; return its path.

        If `subset` is None, it has all classes. `options` are those of `write_split`.
        """
        file = self.data / name / f"{split}.beton"
        manifest = write_split(
            self.source,
            split,
            subset or everything(self.source.classes),
            self.encoding,
            file,
            **options,
        )
        record(file, manifest, self.origin)
        return file

    def reuse(
        self, subset: Subset = TWO, name: str = "taken", split: str = "train", **options: Any
    ) -> reuse.Reused | None:
        """Write a beton from existing ones. A message fails the test, unless `log` is given.

        Returns None if no existing beton can be used. `options` are those of `reuse_samples`.
        """
        return reuse.reuse_samples(
            self.source,
            split,
            subset,
            self.encoding,
            self.data / name / f"{split}.beton",
            **{"origin": self.origin, "folder": self.data, "log": _raise, **options},
        )

    def check_equals_written(
        self, subset: Subset = TWO, name: str = "taken", split: str = "train"
    ) -> None:
        """Assert that file and manifest equal those written from the images."""
        taken, own = self.data / name / f"{split}.beton", self.write(subset, f"own_{name}", split)
        assert taken.read_bytes() == own.read_bytes()
        assert manifest_path(taken).read_bytes() == manifest_path(own).read_bytes()
        assert verify(taken) == []


def _raise(message: str) -> None:
    raise AssertionError(message)
