"""Hostile and damaged sources give one message each, never an endless loop or a traceback."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.packed import add
from tests.helpers.pictures import picture
from writers.check import accepted_differences
from writers.dataset import SplitSettings, open_dataset, spec_of
from writers.errors import UserError
from writers.formats.files import open_files
from writers.formats.image_formats import MAX_IMAGE_BYTES
from writers.formats.tars import MAX_EXTENDED_BYTES, members
from writers.source import Source, unique_names


def opened(path: Path, **settings: float) -> Source:
    return open_dataset("folder", path, SplitSettings(**{"val": 0, **settings}))


def tar_with_extended_header(path: Path, records: bytes) -> Path:
    """Write a tar whose first member is a POSIX extended header with these records."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.write(records + bytes(-len(records) % 512))
        file.write(bytes(1024))
    return path


@pytest.mark.parametrize(
    "records",
    [
        b"0 path=a\n",
        b"00000 path=a\n",
        b"-5 path=a\n",
        b"+9 path=a\n",
        b"1 path=a\n",
        b"3 path=a\n",
        b"99 path=a\n",
        b" 9 path=a\n",
        b"x path=a\n",
        b"10 size=-1\n",
    ],
)
def test_an_invalid_length_of_an_extended_record_is_refused(tmp_path: Path, records: bytes):
    path = tar_with_extended_header(tmp_path / "t.tar", records)
    with path.open("rb") as file, pytest.raises(UserError, match="extended headers is invalid"):
        list(members(file.fileno(), path))


def test_a_huge_extended_header_is_not_read(tmp_path: Path):
    records = b"9 path=a\n" * (MAX_EXTENDED_BYTES // 9 + 1)
    path = tar_with_extended_header(tmp_path / "t.tar", records)
    with path.open("rb") as file, pytest.raises(UserError, match="extended header has"):
        list(members(file.fileno(), path))


def test_a_zip_member_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.jpg", b"x" * 1000)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", MAX_IMAGE_BYTES + 1)
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not read"):
        open_files(path)
    data[central + 24 : central + 28] = struct.pack("<I", 10)  # less than its content
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"damaged at cat/1\.jpg"):
        open_files(path).read("cat/1.jpg")


def test_no_image_of_more_than_a_gigabyte_is_read(tmp_path: Path):
    """The files have no content on the disk; only their stated size is large."""
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    with (tmp_path / "tree" / "cat" / "1.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    source = opened(tmp_path / "tree")
    with pytest.raises(OSError, match="more than an image"):
        source.read(source.splits["train"][0])
    header = tarfile.TarInfo("cat/1.jpg")
    header.size = MAX_IMAGE_BYTES + 1
    with (tmp_path / "t.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(header.size + 4096)
    with pytest.raises(UserError, match="an image of more than"):
        opened(tmp_path / "t.tar")


def test_names_longer_than_paths_are_refused(tmp_path: Path):
    """A name of 100,000 folders would cost a pass over all names for each."""
    name = "d/" * 20_000 + "cat/1.jpg"
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, name, b"x")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(name, b"x")
    for path in (tmp_path / "t.tar", tmp_path / "t.zip"):
        with pytest.raises(UserError, match="more than the path of a file"):
            opened(path)


def test_a_zip_with_a_file_twice_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("cat/1.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("cat/1.jpg", b"two")
    with pytest.raises(UserError, match=r"has cat/1\.jpg twice"):
        open_files(tmp_path / "t.zip")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_as_a_source_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="is a pipe or a device"):
        opened(tmp_path / "pipe.tar")


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b'"text"',
        b'{"info": 3}',
        b'{"info": {"features": []}}',
        b'{"info": {"features": {"label": "x"}}}',
        b'{"info": {"features": {"label": {"names": "abc"}}}}',
        b'{"info": {"features": {"label": {"names": [1, 2]}}}}',
    ],
)
def test_damaged_metadata_of_parquet_is_refused_in_one_line(tmp_path: Path, metadata: bytes):
    with pytest.raises(UserError, match="damaged metadata of the hub"):
        opened(parquet(tmp_path / "train-0.parquet", [0, 1], metadata))


@pytest.mark.parametrize(
    "metadata", [b"{}", b'{"info": null}', b'{"info": {"features": {"label": {"names": null}}}}']
)
def test_metadata_without_class_names_is_allowed(tmp_path: Path, metadata: bytes):
    source = opened(parquet(tmp_path / "train-0.parquet", [0, 1], metadata))
    assert source.classes == ["0000", "0001"]


def parquet(path: Path, labels: list[int], metadata: bytes) -> Path:
    pa = pytest.importorskip("pyarrow", reason="Parquet shards need pyarrow, an extra")
    pq = pytest.importorskip("pyarrow.parquet")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())])
    rows = [{"image": {"bytes": b"x", "path": None}, "label": label} for label in labels]
    table = pa.Table.from_pylist(rows, schema.with_metadata({b"huggingface": metadata}))
    pq.write_table(table, path)
    return path


def test_equal_class_names_stay_classes_of_their_own(tmp_path: Path):
    names = b'{"info": {"features": {"label": {"names": ["crane", "heron", "crane"]}}}}'
    labels = [0, 1, 2, 2, 0]
    hub = opened(parquet(tmp_path / "train-0.parquet", labels, names))
    (tmp_path / "wds").mkdir()
    with tarfile.open(tmp_path / "wds" / "train-0.tar", "w") as archive:
        for number, label in enumerate(labels):
            buffer = io.BytesIO()
            picture(number, 20, 20).save(buffer, "PNG")
            add(archive, f"{number}.png", buffer.getvalue())
            add(archive, f"{number}.cls", str(label).encode())
    (tmp_path / "wds" / "classnames.txt").write_text("crane\nheron\ncrane\n")
    for source in (hub, opened(tmp_path / "wds")):
        assert source.classes == ["crane", "crane (2)", "heron"]
        assert source.class_counts() == {"crane": 2, "crane (2)": 2, "heron": 1}


def test_numbered_names_are_unique():
    assert unique_names(["a", "a (2)", "a", "a"]) == ["a", "a (2)", "a (3)", "a (4)"]
    assert unique_names(["a", "b"]) == ["a", "b"]


def test_a_synthetic_set_with_a_drawn_test_split_is_whole():
    spec = spec_of("synthetic_things")
    per_class = {"train": 40, "val": 20, "test": 10}  # test is a part of the published train
    source = Source(
        spec.name,
        spec.name,
        [f"{label:02d}" for label in range(30)],
        {split: examples(split, number) for split, number in per_class.items()},
        open_files(Path(__file__).parent),
    )
    assert accepted_differences(source, spec, accept=False) == []
    source.splits["test"].pop()
    with pytest.raises(UserError, match="train has 1,499 images; 1,500 were published"):
        accepted_differences(source, spec, accept=False)


def examples(split: str, number: int) -> list:
    from writers.source import Example

    return [
        Example(f"{split}/{label}/{index}", label, f"{label}/{split}{index}")
        for label in range(30)
        for index in range(number)
    ]
