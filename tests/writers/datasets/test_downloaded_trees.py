"""The twelve datasets with what editors, desktops and unpacking programs add to a download."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import official_layouts as layouts
from writers.dataset import SplitSettings, open_dataset
from writers.source import Source

SETTINGS = SplitSettings(val=0.0)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def content(source: Source) -> dict[str, list[tuple[str, int, bytes]]]:
    return {
        split: sorted((one.name, one.label, source.read(one)) for one in examples)
        for split, examples in source.splits.items()
    }


@pytest.mark.parametrize("name", ["aircraft", "birdsnap", "dtd", "food", "pets", "sun397"])
def test_lists_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str):
    getattr(layouts, name)(tmp_path)
    expected = content(open_dataset(name, tmp_path, SETTINGS))
    for file in tmp_path.rglob("*.txt"):
        file.write_bytes(BYTE_ORDER_MARK + file.read_bytes().replace(b"\n", b"\r\n"))
    assert content(open_dataset(name, tmp_path, SETTINGS)) == expected


@pytest.mark.parametrize("folder", [".Trash-1000", "__MACOSX", "lost+found", "@eaDir"])
@pytest.mark.parametrize("name", ["caltech101", "caltech256"])
def test_folders_of_the_system_are_no_place_for_images(tmp_path: Path, name: str, folder: str):
    """Sorted by name, `.Trash-1000` and `__MACOSX` come before the folder `unpacked`."""
    getattr(layouts, name)(tmp_path / "unpacked")
    expected = content(open_dataset(name, tmp_path / "unpacked", SETTINGS))
    shutil.copytree(tmp_path / "unpacked", tmp_path / folder)
    for number, image in enumerate(sorted((tmp_path / folder).rglob("*.jpg"))):
        if number % 2:
            image.unlink()
    assert content(open_dataset(name, tmp_path, SETTINGS)) == expected


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("outer", ["cifar-10-batches-py", "cifar-100-python", "archive/unzipped"])
def test_cifar_may_be_in_folders_of_any_name(tmp_path: Path, fine: bool, outer: str):
    name = "cifar100" if fine else "cifar10"
    layouts.cifar(tmp_path / outer, fine)
    found = content(open_dataset(name, tmp_path / outer.split("/")[0], SETTINGS))
    assert found == content(open_dataset(name, tmp_path / outer, SETTINGS))
    assert sum(map(len, found.values())) == (8 if fine else 24)
