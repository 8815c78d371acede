"""Archives, shards and tables as people and other programs make them: read, counted or refused."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from writers.beton.encode import check_image
from writers.dataset import open_dataset
from writers.errors import UserError
from writers.formats.imagenet_val import val_classes
from writers.source import Source, SplitSettings

SETTINGS = SplitSettings(val=0.0, test=0.0)


def picture(number: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 50, 90)).save(file, kind)
    return file.getvalue()


TREE = [(f"{name}/{i}.jpg", picture(i)) for name in ("cat", "dog") for i in range(2)]


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    return tar(
        path, [(key + end, own) for key, files in samples.items() for end, own in files.items()]
    )


def opened(path: Path) -> Source:
    return open_dataset("folder", path, SETTINGS)


def not_read(source: Source) -> dict[str, int]:
    return {omission.reason: omission.count for omission in source.omissions}


def names(source: Source) -> list[str]:
    return sorted(example.name for example in source.splits["train"])


# Archives


def test_archives_that_were_joined_are_refused_instead_of_read_in_part(tmp_path: Path):
    first, second = tar(tmp_path / "a.tar", TREE[:2]), tar(tmp_path / "b.tar", TREE[2:])
    joined = tmp_path / "joined.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UserError, match="several archives were joined") as caught:
        opened(joined)
    assert "--ignore-zeros" in caught.value.hint


@pytest.mark.parametrize("padding", [b"", b"\0" * 20_000, b"\0" * 512 + b"old content" * 40])
def test_padding_after_the_end_of_an_archive_is_ignored(tmp_path: Path, padding: bytes):
    path = tar(tmp_path / "a.tar", TREE)
    path.write_bytes(path.read_bytes() + padding)
    assert len(opened(path).splits["train"]) == 4


def test_an_encrypted_zip_is_called_so(tmp_path: Path):
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in TREE:
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(mark, place + 1)) >= 0:
            content[place + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        opened(path)


def test_a_link_in_a_zip_is_called_so(tmp_path: Path):
    path = tmp_path / "links.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in TREE:
            archive.writestr(name, content)
        link = zipfile.ZipInfo("cat/link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "0.jpg")
    with pytest.raises(UserError, match=r"cat/link\.jpg is a link"):
        opened(path)


def test_archives_in_an_archive_are_named(tmp_path: Path):
    inner = tar(tmp_path / "cat.tar", TREE).read_bytes()
    outer = tar(tmp_path / "outer.tar", [("cat.tar", inner), ("dog.tar", gzip.compress(inner))])
    with pytest.raises(
        UserError, match=r"no images in class folders; .*: 2 \(cat\.tar, dog\.tar\)"
    ):
        opened(outer)


# Shards of WebDataset


def test_shards_with_cls_txt_and_with_a_byte_order_mark_have_their_labels(tmp_path: Path):
    for end, label in ((".cls.txt", b"2\n"), (".cls", "\ufeff2".encode()), (".CLS", b" 2 ")):
        samples = {f"{i}": {".jpg": picture(i), end: label} for i in range(2)}
        assert opened(shard(tmp_path / "train-0.tar", samples)).classes == ["0002"]


def test_keys_that_differ_by_folders_only_stay_two_images(tmp_path: Path):
    samples = {
        f"{folder}/{i}": {".jpg": picture(i), ".cls": b"0"} for folder in "ab" for i in range(2)
    }
    found = names(opened(shard(tmp_path / "train-0.tar", samples)))
    assert found == [f"0000/train-0/{folder}/{i}" for folder in "ab" for i in range(2)]


def test_further_images_of_a_sample_are_counted_and_do_not_hide_the_shard(tmp_path: Path):
    samples = {
        f"{i}": {".jpg": picture(i), ".png": picture(i, "PNG"), ".cls": b"1"} for i in range(3)
    }
    source = opened(shard(tmp_path / "train-0.tar", samples))
    assert not_read(source) == {"further images of a sample": 3}
    assert len(source.splits["train"]) == 3


@pytest.mark.parametrize("label", [True, 1.0, {"id": 1}])
def test_labels_of_other_types_are_shown(tmp_path: Path, label: Any):
    samples = {"0": {".jpg": picture(0), ".json": json.dumps({"label": label}).encode()}}
    with pytest.raises(UserError) as caught:
        opened(shard(tmp_path / "train-0.tar", samples))
    assert f"has the label {json.dumps(label)}, which is neither" in caught.value.message


def test_negative_labels_other_than_minus_one_are_refused(tmp_path: Path):
    samples = {"0": {".jpg": picture(0), ".cls": b"-3"}}
    with pytest.raises(UserError, match="the label -3; labels are numbers from 0"):
        opened(shard(tmp_path / "train-0.tar", samples))


# Parquet


def table(path: Path, labels: list[Any], paths: list[str | None]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(i), "path": name} for i, name in enumerate(paths)]
    parquet.write_table(arrow.table({"image": images, "label": labels}), path)
    return path


def test_rows_of_equal_paths_are_named_by_position_and_others_by_path(tmp_path: Path):
    paths = ["image.jpg", "image.jpg", "other.jpg", "image.jpg"]
    found = names(opened(table(tmp_path / "train-0.parquet", [0, 0, 0, 1], paths)))
    expected = ["0000/other", "0000/train-0-0000000", "0000/train-0-0000001", "0001/image"]
    assert found == expected


def test_negative_labels_of_rows_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="the label -2; labels are numbers from 0"):
        opened(table(tmp_path / "train-0.parquet", [0, -2], ["a.jpg", "b.jpg"]))


# Trees


def test_folders_that_are_not_entered_are_counted(tmp_path: Path):
    for name in ("cat/0.jpg", "dog/0.jpg", "lost+found/0.jpg", ".cache/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "itself").symlink_to("itself")
    source = opened(tmp_path)
    assert not_read(source) == {
        "hidden and system folders": 2,
        "links to themselves or to a folder around them": 2,
    }
    assert source.classes == ["cat", "dog"]


HEADS = {
    "a HEIC image or a video": b"\0\0\0\x18ftypheic" + b"\0" * 30,
    "a JPEG XL image": b"\xff\x0a" + b"\0" * 30,
    "an HTML page": b"\xef\xbb\xbf <!DOCTYPE HTML><html>404</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a PDF document": b"%PDF-1.7 " + b"\0" * 30,
    "an SVG drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "not an image that Pillow can open": b"hello",
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_file_that_is_no_image_is_called_what_it_is(kind: str):
    with pytest.raises(Exception, match=kind):
        check_image(HEADS[kind])


def test_images_in_formats_that_are_not_read_are_counted_as_such(tmp_path: Path):
    for number, kind in enumerate(("a HEIC image or a video", "a JPEG XL image")):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{number}.img").write_bytes(HEADS[kind])
    with pytest.raises(UserError, match=r"HEIC or JPEG XL: 2 \(cat/0\.img, cat/1\.img\)"):
        opened(tmp_path)


# ImageNet's validation images as Kaggle ships them

PLAIN = "ImageId,PredictionString\nILSVRC2012_val_00000001,n03995372 85 1 499 272\n"
FORMS = {
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "byte order mark": f"\ufeff{PLAIN}",
    "quotes": 'ImageId,PredictionString\n"ILSVRC2012_val_00000001","n03995372 85 1 499 272"\n',
    "other order": "PredictionString,ImageId\nn03995372 85 1,ILSVRC2012_val_00000001\n",
    "index column": ",ImageId,PredictionString\n0,ILSVRC2012_val_00000001,n03995372\n",
    "extension": PLAIN.replace("01,", "01.JPEG,"),
}


@pytest.mark.parametrize("form", FORMS)
def test_kaggles_table_is_read_in_other_forms(tmp_path: Path, form: str):
    (tmp_path / "LOC_val_solution.csv").write_bytes(FORMS[form].encode())
    key = "val/ILSVRC2012_val_00000001.JPEG"
    assert val_classes([key], [tmp_path]) == {key: "n03995372"}


@pytest.mark.parametrize(
    "text", ["", PLAIN.split("\n", 1)[1], PLAIN.replace("n03", "x"), "a,b\n1,2"]
)
def test_another_table_in_place_of_kaggles_is_refused(tmp_path: Path, text: str):
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    with pytest.raises(UserError, match=r"LOC_val_solution\.csv, row \d+"):
        val_classes(["val/ILSVRC2012_val_00000001.JPEG"], [tmp_path])
