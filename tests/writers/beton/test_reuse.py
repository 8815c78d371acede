"""Existing `.beton` files are reused if the result equals the file written from the images."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.pictures import picture
from tests.helpers.reuse_workspace import PETS, TWO, Workspace
from writers.beton import copy, layout, reuse
from writers.beton.encoding import Encoding
from writers.beton.provenance import record, record_path
from writers.beton.store import Manifest, manifest_path, open_beton
from writers.errors import UserError
from writers.source import Example, Source
from writers.subset.spec import Subset, SubsetSpec, everything, resolve

ENCODINGS = [
    Encoding(),
    Encoding(restart_index=False),
    Encoding(format="raw"),
    Encoding(format="passthrough"),
    Encoding(format="passthrough", restart_index=True, max_resolution=120),
    Encoding(format="mixed", compress_probability=0.5, max_resolution=110),
]


@pytest.mark.parametrize(
    "encoding", ENCODINGS, ids=lambda encoding: f"{encoding.format}-{encoding.restart_index}"
)
def test_a_reused_subset_equals_the_written_one_and_reads_few_images(
    workspace: Workspace, encoding: Encoding, monkeypatch
):
    workspace.encoding = encoding
    whole = workspace.write()
    read: list[str] = []
    read_image = Source.read
    monkeypatch.setattr(reuse, "NUM_REENCODED", 3)

    def recording(source: Source, example: Example) -> bytes:
        read.append(example.name)
        return read_image(source, example)

    monkeypatch.setattr(Source, "read", recording)
    taken = workspace.reuse()
    assert taken is not None and taken.beton == whole and len(read) == 3
    assert taken.manifest == open_beton(workspace.data / "taken" / "train.beton").manifest
    monkeypatch.undo()
    workspace.check_equals_written()


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


def test_betons_with_coarser_labels_and_reused_betons_can_be_reused(workspace: Workspace):
    """Classes of the existing beton do not matter: labels come from the source."""
    workspace.write(PETS, "pets")
    taken = workspace.reuse()
    assert taken
    record(workspace.data / "taken" / "train.beton", taken.manifest, workspace.origin)
    workspace.check_equals_written()
    again = workspace.reuse(Subset("one", ("owl",)), "again")
    # The smallest beton that has all images of the subset is reused.
    assert again
    assert again.beton.parent.name in ("taken", "own_taken")
    workspace.check_equals_written(Subset("one", ("owl",)), "again")


def test_known_damaged_images_reserve_the_same_space(workspace: Workspace, monkeypatch):
    # 10 images of the subset, one of them damaged: the file reserves space for 10.
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


def _touch(workspace: Workspace) -> None:
    # The subset does not have this image.
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


_encode = reuse.encode


def test_no_reuse_if_current_libraries_encode_differently(workspace: Workspace, monkeypatch):
    workspace.write()
    monkeypatch.setattr(
        reuse, "encode", lambda *arguments, lenient: replace(_encode(*arguments), data=b"newer")
    )
    assert workspace.reuse() is None


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


def test_a_beton_removed_or_replaced_during_reuse_is_reported(workspace: Workspace, monkeypatch):
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
