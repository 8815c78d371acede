"""The walk over raw files: order, hidden folders, circular links, and any depth."""

import os
import subprocess
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
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        folder, above = os.open("d", os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(os.open("1.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        assert [name for name, _ in walk(tmp_path)] == ["d/" * 1200 + "1.jpg"]
    finally:  # too deep for shutil.rmtree, which pytest calls later
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
