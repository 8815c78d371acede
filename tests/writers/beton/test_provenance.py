"""The origin of a `.beton` file: the files and split settings that it was written from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers.reuse_workspace import PETS, TWO, Workspace
from writers.beton import provenance
from writers.beton.copy import copy_subset
from writers.beton.provenance import Origin, inherit, open_with_origin, record_path, recorded
from writers.source import SplitSettings


def test_the_origin_covers_files_and_split_settings(workspace: Workspace, monkeypatch):
    def opened(
        protocol: str | None = None, made_at: Path = workspace.tree, **settings: Any
    ) -> Origin | None:
        def open_dataset(name: str, paths: list[Path], settings: SplitSettings, labels=None) -> Any:
            made_at.mkdir(exist_ok=True)
            return SimpleNamespace(protocol=protocol)

        monkeypatch.setattr(provenance, "open_dataset", open_dataset)
        return open_with_origin("folder", [made_at], replace(SplitSettings(), **settings))[1]

    assert opened() == workspace.origin
    made = workspace.tree.parent / "made"  # generated on first use; unchanged on the second
    assert opened(made_at=made) == opened(made_at=made)
    origins = [
        opened(),
        opened("vtab"),
        opened(val=0.2),
        opened(test=0.1),
        opened(seed=1),
        opened(made_at=made),
    ]
    assert None not in origins and all(origins.count(origin) == 1 for origin in origins)


def test_a_copy_inherits_the_origin_and_another_file_does_not(workspace: Workspace):
    whole, file = workspace.write(), workspace.data / "copied" / "train.beton"
    manifest = copy_subset(whole, TWO, file)
    inherit(whole, file)
    assert recorded(file, manifest) == workspace.origin
    other = workspace.write(PETS, "other")
    record_path(other).unlink()
    inherit(whole, other)
    assert not record_path(other).exists()


def test_circular_and_broken_links_are_handled(workspace: Workspace):
    (workspace.tree / "train" / "round").symlink_to(workspace.tree, target_is_directory=True)
    (workspace.tree / "nowhere").symlink_to(workspace.tree / "not_there")
    assert provenance._state([workspace.tree]) == provenance._state([workspace.tree]) is not None
