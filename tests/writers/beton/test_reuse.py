"""Existing betons are reused if the result equals the file written from the images."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.pictures import picture
from writers.beton import copy, layout, provenance, reuse
from writers.beton.atomic_file import _this_host
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.provenance import (
    Origin,
    inherit,
    open_with_origin,
    record,
    record_path,
    recorded,
)
from writers.beton.store import Manifest, manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Source, SplitSettings
from writers.subset.spec import Subset, SubsetSpec, everything, resolve

TWO = Subset("two", ("owl", "cat"))  # the subset has its own label order
PETS = Subset("pets", ("bird", "pet"), (("owl",), ("cat", "dog")))
ENCODINGS = [
    Encoding(),
    Encoding(restart_index=False),
    Encoding(format="raw"),
    Encoding(format="passthrough"),
    Encoding(format="passthrough", restart_index=True, max_resolution=120),
    Encoding(format="mixed", compress_probability=0.5, max_resolution=110),
]


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
        self.source, self.origin = open_with_origin("folder", [self.tree], self.settings)

    def write(
        self,
        subset: Subset | None = None,
        name: str = "whole",
        split: str = "train",
        **options: Any,
    ) -> Path:
        """Write from the images."""
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
        return reuse.reuse_samples(
            self.source,
            split,
            subset,
            self.encoding,
            self.data / name / f"{split}.beton",
            **{"origin": self.origin, "folder": self.data, "log": _fail, **options},
        )

    def check_equals_written(
        self, subset: Subset = TWO, name: str = "taken", split: str = "train"
    ) -> None:
        """Assert that file and manifest equal those written from the images."""
        taken, own = self.data / name / f"{split}.beton", self.write(subset, f"own_{name}", split)
        assert taken.read_bytes() == own.read_bytes()
        assert manifest_path(taken).read_bytes() == manifest_path(own).read_bytes()
        assert verify(taken) == []


def _fail(message: str) -> None:
    raise AssertionError(message)


@pytest.fixture
def workspace(tree: Path, tmp_path: Path) -> Workspace:
    return Workspace(tree, tmp_path / "data", SplitSettings(), Encoding())


@pytest.mark.parametrize(
    "encoding", ENCODINGS, ids=lambda encoding: f"{encoding.format}-{encoding.restart_index}"
)
def test_a_reused_subset_equals_the_written_one_and_reads_few_images(
    workspace: Workspace, encoding: Encoding, monkeypatch
):
    workspace.encoding = encoding
    whole = workspace.write()
    read: list[str] = []
    monkeypatch.setattr(reuse, "NUM_REENCODED", 3)
    monkeypatch.setattr(
        Source, "read", lambda source, example: read.append(example.name) or _read(source, example)
    )
    taken = workspace.reuse()
    assert taken is not None and taken.beton == whole and len(read) == 3
    assert taken.manifest == open_beton(workspace.data / "taken" / "train.beton").manifest
    monkeypatch.undo()
    workspace.check_equals_written()


_read = Source.read


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    "subset", [PETS, Subset("one", ("dog",)), "per_class"], ids=["coarser", "one", "per_class"]
)
def test_reuse_with_other_labels_counts_and_splits(
    workspace: Workspace, subset: Subset | str, split: str
):
    if isinstance(subset, str):
        spec = SubsetSpec.model_validate({"name": "few", "per_class": 2})
        subset = resolve(
            spec, workspace.source.classes, class_counts=workspace.source.class_counts()
        )
    workspace.write(split=split)
    assert workspace.reuse(subset, split=split)
    workspace.check_equals_written(subset, split=split)


def test_reuse_from_coarser_labels_and_from_a_reused_beton(workspace: Workspace):
    """Classes of the existing beton do not matter: labels come from the source."""
    workspace.write(PETS, "pets")
    taken = workspace.reuse()
    assert taken
    record(workspace.data / "taken" / "train.beton", taken.manifest, workspace.origin)
    workspace.check_equals_written()
    again = workspace.reuse(Subset("one", ("owl",)), "again")
    # the smallest that has all of them
    assert again
    assert again.beton.parent.name in (
        "taken",
        "own_taken",
    )
    workspace.check_equals_written(Subset("one", ("owl",)), "again")


def test_known_damaged_images_reserve_the_same_space(workspace: Workspace, monkeypatch):
    # ten images, one of them damaged: the file reserves space for ten
    monkeypatch.setattr(layout, "FEW_SAMPLES", 10)
    workspace.source.damaged = {
        "train/cat/train_0.jpg": "cut off",
        "train/dog/train_1.jpg": "cut off",
    }
    workspace.write()
    taken = workspace.reuse()
    assert taken
    assert taken.manifest.page_size == layout.PAGE_SIZE
    assert taken.manifest.num_samples == 9
    assert taken.manifest.skipped == [{"name": "cat/train_0", "class": "cat", "reason": "cut off"}]
    workspace.check_equals_written()


def test_a_whole_file_is_hard_linked_and_survives_its_source(workspace: Workspace):
    whole = workspace.write()
    taken = workspace.reuse(everything(workspace.source.classes))
    file = workspace.data / "taken" / "train.beton"
    assert taken and file.samefile(whole)
    workspace.check_equals_written(everything(workspace.source.classes))
    before, links = file.read_bytes(), file.stat().st_nlink
    workspace.encoding = Encoding(format="raw")
    workspace.write()  # overwrite the first
    assert not file.samefile(whole)
    assert file.read_bytes() == before
    assert file.stat().st_nlink == links - 1
    assert verify(file) == []
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "train.beton",
        "train.beton.json",
    ]


def test_a_whole_file_is_copied_if_linking_fails(workspace: Workspace, monkeypatch):
    def refuse(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    whole = workspace.write()
    monkeypatch.setattr(os, "link", refuse)
    assert workspace.reuse(everything(workspace.source.classes))
    assert not (workspace.data / "taken" / "train.beton").samefile(whole)
    workspace.check_equals_written(everything(workspace.source.classes))


def test_a_beton_that_is_replaced_before_it_is_linked_is_copied(workspace: Workspace, monkeypatch):
    """The file that was checked is the file that is linked."""
    whole, link = workspace.write(), os.link

    def link_late(file: Path, linked: Path) -> None:
        shutil.copy(file, workspace.data / "new")
        (workspace.data / "new").replace(file)
        link(file, linked)

    monkeypatch.setattr(os, "link", link_late)
    assert workspace.reuse(everything(workspace.source.classes))
    assert not (workspace.data / "taken" / "train.beton").samefile(whole)
    assert len(list((workspace.data / "taken").iterdir())) == 2
    workspace.check_equals_written(everything(workspace.source.classes))


def test_the_next_writer_removes_the_link_of_a_killed_one(workspace: Workspace):
    whole, folder = workspace.write(), workspace.data / "taken"
    folder.mkdir()
    (folder / f".train.beton.{_this_host()}-00.writing").touch()
    os.link(whole, folder / f".train.beton.{_this_host()}-00.link")
    assert workspace.reuse()
    assert sorted(path.name for path in folder.iterdir()) == ["train.beton", "train.beton.json"]


def _touch(workspace: Workspace) -> None:
    # an image that is not needed
    os.utime(workspace.tree / "train" / "dog" / "train_0.jpg", ns=(1, 1))
    workspace.reopen()


def _same_name_and_time(workspace: Workspace) -> None:
    path = workspace.tree / "train" / "cat" / "train_0.jpg"
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    workspace.reopen()


def _add_image(workspace: Workspace) -> None:
    picture(77, 100, 100).save(workspace.tree / "train" / "cat" / "another.png")
    workspace.reopen()


def _other_val(workspace: Workspace) -> None:
    workspace.settings = replace(workspace.settings, val=0.2)
    workspace.reopen()


def _no_record(workspace: Workspace) -> None:
    record_path(workspace.data / "whole" / "train.beton").unlink()


def _record_of_another(workspace: Workspace) -> None:
    workspace.write(TWO, "two", split="val")
    record_path(workspace.data / "two" / "val.beton").replace(
        record_path(workspace.data / "whole" / "train.beton")
    )


def _no_state(workspace: Workspace) -> None:
    _no_record(workspace)
    workspace.origin = None


def _reseal(**changes: Any) -> Callable[[Workspace], None]:
    def change(workspace: Workspace) -> None:
        file = workspace.data / "whole" / "train.beton"
        before = open_beton(file).manifest
        fields = {name: getattr(before, name) for name in Manifest.model_fields if name != "digest"}
        manifest = Manifest.sealed(**fields | changes)
        manifest_path(file).write_text(manifest.model_dump_json())
        record(file, manifest, workspace.origin)

    return change


def _other_encoding(workspace: Workspace) -> None:
    workspace.encoding = Encoding(jpeg_quality=91)


def _order_of_another_seed(workspace: Workspace) -> None:
    workspace.write(seed=3)
    _reseal(seed=0)(workspace)


def _fewer_images(workspace: Workspace) -> None:
    workspace.write(Subset("cats", ("cat", "dog")))


@pytest.mark.parametrize(
    "change",
    [
        _touch,
        _same_name_and_time,
        _add_image,
        _other_val,
        _no_record,
        _record_of_another,
        _no_state,
        _other_encoding,
        _order_of_another_seed,
        _fewer_images,
        _reseal(created_by="harness writers 4"),
        _reseal(dataset="others"),
        _reseal(seed=1),
        _reseal(split="val"),
    ],
)
def test_betons_not_proven_equal_are_not_reused(
    workspace: Workspace, change: Callable[[Workspace], None]
):
    workspace.write()
    assert workspace.reuse()
    for path in (workspace.data / "taken").iterdir():
        path.unlink()
    change(workspace)
    assert workspace.reuse() is None and not list((workspace.data / "taken").iterdir())


def test_missing_images_are_detected_without_encoding(workspace: Workspace, monkeypatch):
    monkeypatch.setattr(reuse, "NUM_REENCODED", 0)
    workspace.write(Subset("others", ("cat", "dog")))
    for name, there in (("owl", False), ("cat", True)):
        spec = SubsetSpec.model_validate(
            {"name": "one", "classes": [name], "steps": [{"per_class": 1}]}
        )
        assert (workspace.reuse(resolve(spec, workspace.source.classes)) is not None) == there


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


def test_no_reuse_if_current_libraries_encode_differently(workspace: Workspace, monkeypatch):
    workspace.write()
    monkeypatch.setattr(
        reuse, "encode", lambda *arguments, lenient: replace(_encode(*arguments), data=b"newer")
    )
    assert workspace.reuse() is None


_encode = reuse.encode


@pytest.mark.parametrize(
    "subset", [TWO, Subset("all", ("cat", "dog", "owl"))], ids=["copy", "link"]
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_beton_is_reported_and_the_next_one_used(
    workspace: Workspace, subset: Subset, cut: bool, monkeypatch
):
    """Test a flipped bit in an image, and a file that shrinks while it is read."""
    monkeypatch.setattr(copy, "MAX_COPY_BYTES", 4000)
    good, bad, messages = workspace.write(name="good"), workspace.write(name="bad"), []
    data = bytearray(bad.read_bytes())
    beton = open_beton(bad)
    position = int(np.flatnonzero(beton.labels == 0)[-1])
    data[int(beton.rows["offset"][position]) + 300] ^= 1

    def shrink(done: int, total: int) -> None:
        os.truncate(bad, 2**21 + 1000)

    if not cut:
        bad.write_bytes(data)
    taken = workspace.reuse(subset, log=messages.append, progress=shrink if cut else None)
    assert taken and taken.beton == good and len(messages) == 1 and str(bad) in messages[0]
    workspace.check_equals_written(subset)
    good.unlink()
    assert (
        workspace.reuse(subset, "again", log=messages.append, folder=bad.parents[1] / "nothing")
        is None
    )


def test_a_beton_removed_or_replaced_during_reuse(workspace: Workspace, monkeypatch):
    whole, messages = workspace.write(), []
    monkeypatch.setattr(reuse, "open_beton", lambda path: whole.unlink() or open_beton(path))
    assert workspace.reuse(log=messages.append) is None and len(messages) == 1
    workspace.write()
    monkeypatch.setattr(reuse, "open_beton", open_beton)
    monkeypatch.setattr(
        reuse,
        "encode",
        lambda *arguments, lenient: whole.unlink(missing_ok=True) or _encode(*arguments),
    )
    for subset in (TWO, everything(workspace.source.classes)):
        assert workspace.reuse(subset, log=messages.append) is None
        assert "cannot be read" in messages.pop()
        workspace.write()

    def replaced(path: Path) -> Any:
        workspace.encoding = Encoding(format="raw")
        workspace.write()
        return open_beton(path)

    monkeypatch.setattr(reuse, "open_beton", replaced)
    assert workspace.reuse(log=messages.append) is None and "a different file" in messages[1]


def test_user_errors_are_raised_as_by_write_split(workspace: Workspace):
    workspace.write()
    with pytest.raises(UserError, match="no image of 1 of its 2 classes: emu"):
        workspace.reuse(Subset("odd", ("cat", "emu")))
    (workspace.data / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        workspace.reuse(name="file")


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
