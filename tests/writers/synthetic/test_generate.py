"""Synthetic sets: reproducible images, documented counts, and no partial folder."""

import dataclasses
import errno
import fcntl
import io
import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image

from writers.dataset import SplitSettings
from writers.datasets import synthetic_patterns, synthetic_scenes, synthetic_things
from writers.errors import UserError
from writers.synthetic import generate as synthetic

SETS = [synthetic_things, synthetic_patterns, synthetic_scenes]
TINY = synthetic.SyntheticSet(
    "tiny", dict(list(synthetic_things.pictures().classes.items())[:2]), {"train": 3, "val": 1}
)
SMALL = dataclasses.replace(TINY, num_images={"train": 30})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_images_are_reproducible(tmp_path):
    synthetic.make(tmp_path / "one", TINY)
    synthetic.make(tmp_path / "deeper" / "two", TINY)
    first = contents(tmp_path / "one")
    assert first == contents(tmp_path / "deeper" / "two")
    assert len(set(first.values())) == len(first) == 2 * 4 + 1
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_an_image_does_not_depend_on_the_others(tmp_path):
    synthetic.make(tmp_path / "few", TINY)
    synthetic.make(
        tmp_path / "more", dataclasses.replace(TINY, num_images={"test": 1, "val": 2, "train": 4})
    )
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert all(more[name] == few[name] for name in few if name.endswith(".jpg"))


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.SPEC.name)
def test_every_split_has_the_documented_counts(dataset, tmp_path, monkeypatch):
    spec, pictures = dataset.SPEC, dataset.pictures()
    assert spec.name == pictures.name == dataset.__name__.rsplit(".", 1)[1]
    assert spec.num_classes == len(pictures.classes)
    assert spec.split_sizes == {
        split: len(pictures.classes) * number for split, number in pictures.num_images.items()
    }
    monkeypatch.setattr(synthetic, "encode_image", lambda *_: b"")  # count only, without drawing
    source = dataset.open(tmp_path / spec.name, SplitSettings())
    assert source.classes == sorted(pictures.classes)
    assert {
        split: len(examples) for split, examples in source.splits.items() if examples
    } == spec.split_sizes


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.SPEC.name)
def test_every_class_can_be_drawn_in_varied_sizes(dataset):
    pictures = [
        Image.open(io.BytesIO(synthetic.encode_image(dataset.pictures(), "train", name, number)))
        for name in dataset.pictures().classes
        for number in range(2)
    ]
    sizes = [picture.size for picture in pictures]
    assert all(80 <= side <= 160 for size in sizes for side in size)
    assert len(set(sizes)) > len(sizes) // 2
    assert min(width / height for width, height in sizes) < 0.85
    assert max(width / height for width, height in sizes) > 1.2
    assert all(max(high - low for low, high in picture.getextrema()) > 40 for picture in pictures)


def test_the_sets_have_no_label_in_common():
    names = [name for dataset in SETS for name in dataset.pictures().classes]
    assert len(set(names)) == len(names)


def test_an_existing_set_is_not_changed(tmp_path):
    synthetic.make(tmp_path / "set", TINY)
    before = (tmp_path / "set").stat().st_ino
    synthetic.make(tmp_path / "set", TINY)
    assert (tmp_path / "set").stat().st_ino == before


def test_a_new_version_is_generated_again(tmp_path, monkeypatch):
    path = tmp_path / "set"
    synthetic.make(path, TINY)
    before = contents(path)
    (path / "train" / "no-longer-a-class").mkdir()
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    synthetic.make(path, TINY)
    after = contents(path)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == [synthetic.STAMP]
    assert not (path / "train" / "no-longer-a-class").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_is_used(tmp_path):
    synthetic.make(tmp_path, TINY)
    assert len(contents(tmp_path)) == 9


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_foreign_folder_is_refused(tmp_path, is_folder):
    path = tmp_path / "mine"
    thesis = path / "thesis.txt" if is_folder else path
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("years of work")
    with pytest.raises(UserError, match="left unchanged"):
        synthetic.make(path, TINY)
    assert thesis.read_text() == "years of work"


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        synthetic.make(tmp_path / "file" / "set", TINY)


def test_a_failure_leaves_no_partial_set_and_stale_files_are_removed(tmp_path, monkeypatch):
    path = tmp_path / "set"
    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "encode_image", lambda *_: 1 / 0)  # like a kill while drawing
        with pytest.raises(ZeroDivisionError):
            synthetic.make(path, TINY)
    [leftover] = tmp_path.iterdir()
    assert not path.exists()
    synthetic.make(path, dataclasses.replace(TINY, num_images={"train": 1}))
    assert leftover.exists()  # its process may still be running
    os.utime(leftover, (0, 0))
    synthetic.make(path, TINY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_full_disk_is_not_kept_full(tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic, "encode_image", fill)
    with pytest.raises(UserError, match="No space left on device"):
        synthetic.make(tmp_path / "set", TINY)
    assert not list(tmp_path.iterdir())


def _make_when_all_are_ready(path: Path, barrier, with_lock: bool) -> None:
    if not with_lock:
        fcntl.flock = _no_locks
    barrier.wait(240)
    synthetic.make(path, SMALL)


def _no_locks(*_) -> None:
    raise OSError("no locks here")


@pytest.mark.parametrize("with_lock", [True, False])
def test_two_processes_generate_concurrently(tmp_path, with_lock):
    path = tmp_path / "set"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_make_when_all_are_ready, args=(path, barrier, with_lock))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    assert len(contents(path)) == 2 * 30 + 1


def test_two_sets_of_one_folder_are_generated_at_the_same_time(tmp_path):
    """Each set is finished only after the other one has been started."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [
        context.Process(
            target=synthetic.make_folder,
            args=(tmp_path / name, name, lambda folder: barrier.wait(240)),
        )
        for name in ("first", "second")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["first", "second"]


def test_only_files_of_others_are_reported_as_not_read(tmp_path):
    few = dataclasses.replace(TINY, num_images={"train": 1, "val": 1})
    source = synthetic.open_synthetic(tmp_path / "set", SplitSettings(test=0), few)
    assert source.omissions == []
    (tmp_path / "set" / "notes.txt").write_text("of somebody")
    source = synthetic.open_synthetic(tmp_path / "set", SplitSettings(test=0), few)
    assert [omission.names for omission in source.omissions] == [("notes.txt",)]
    assert str(source.omissions[0]) == "files with extensions of other formats: 1 (notes.txt)"
