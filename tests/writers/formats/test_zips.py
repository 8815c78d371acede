"""Zip archives are read as by `zipfile`, from several threads; damaged members are refused."""

import bz2
import gzip
import lzma
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.pictures import picture
from writers.dataset import SplitSettings
from writers.errors import UserError
from writers.formats.files import open_files
from writers.source import open_source


@pytest.fixture
def archive(tmp_path: Path, tree: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for number, path in enumerate(sorted(tree.rglob("*.*"))):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            file.write(path, path.relative_to(tree.parent), compress_type=kind)
        file.writestr("notes/readme.txt", "no image")
    return tmp_path / "all.zip"


def test_a_zip_equals_its_tree(archive: Path, tree: Path):
    settings = SplitSettings(val=0.2)
    packed, plain = (open_source(path, settings, name="t") for path in (archive, tree))
    assert packed.classes == plain.classes and packed.splits == plain.splits
    examples = [example for split in plain.splits.values() for example in split]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(packed.read, examples)) == [
            plain.read(example) for example in examples
        ]
    assert packed.where(examples[0]).startswith(f"{archive}:")


def test_damage_is_an_error_naming_the_member(archive: Path):
    files = open_files(archive)
    data = bytearray(archive.read_bytes())
    spoilt = 0
    for member in zipfile.ZipFile(archive).infolist():
        data[member.header_offset + 200] ^= 0xFF
    archive.write_bytes(data)
    for name in files.names():
        with pytest.raises(OSError, match="damaged at"):
            files.read(name)
        spoilt += 1
    assert spoilt > 10
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"zip|tar archive"):
        open_files(archive)


def test_unsafe_paths_and_unknown_compression_are_refused(tmp_path: Path):
    for name in ("../evil.jpg", "/etc/evil.jpg"):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
            file.writestr(name, b"x")
        with pytest.raises(UserError, match="outside itself"):
            open_files(tmp_path / "evil.zip")
    picture(0, 20, 20).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.write(tmp_path / "a.png", "train/cat/a.png")
    with pytest.raises(UserError, match="unsupported method"):
        open_files(tmp_path / "other.zip")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_head_of_a_member_is_the_begin_of_its_content(tmp_path: Path, kind: int):
    contents = {"empty.jpg": b"", "short.jpg": b"abc", "long.jpg": bytes(range(256)) * 4000}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", kind) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    files = open_files(tmp_path / "x.zip")
    assert {name: files.head(name, 32) for name in contents} == {
        name: content[:32] for name, content in contents.items()
    }


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (gzip.compress(b"x"), "compressed by gzip, which is not read"),
        (bz2.compress(b"x"), "compressed by bzip2, which is not read"),
        (lzma.compress(b"x"), "compressed by xz, which is not read"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive, which is not read"),
        (b"PK\x03\x04 cut", "a zip archive without its end"),
    ],
    # gzip stores the current time, and pytest-xdist requires equal test names in all workers.
    ids=["gzip", "bzip2", "xz", "rar", "zip"],
)
def test_archives_of_other_kinds_are_named(tmp_path: Path, begin: bytes, message: str):
    """Earlier, all of them were reported as incomplete tars that should not be compressed."""
    (tmp_path / "photos.tar").write_bytes(begin.ljust(1024, b"\0"))
    with pytest.raises(UserError, match=message):
        open_files(tmp_path / "photos.tar")
