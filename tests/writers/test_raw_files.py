"""The walk over raw files: order, hidden folders, circular links, and any depth."""

import inspect
import sys
from pathlib import Path

from writers.raw_files import walk


def test_files_are_listed_by_name_without_hidden_folders_and_circles(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.jpg", "a.txt", ".hidden/x.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "b/again").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    found = dict(walk(tmp_path))
    assert list(found) == ["a.txt", "b/1.jpg", "b/2.jpg", "c.jpg", "gone.jpg"]
    assert found["b/1.jpg"].num_bytes == len("b/1.jpg")


def test_a_tree_may_be_deeper_than_the_call_stack(tmp_path: Path) -> None:
    folders = "d/" * 300
    (tmp_path / folders).mkdir(parents=True)
    (tmp_path / folders / "1.jpg").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        names = [name for name, _ in walk(tmp_path)]
    finally:
        sys.setrecursionlimit(limit)
    assert names == [f"{folders}1.jpg"]
