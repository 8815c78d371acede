"""Parquet and WebDataset shards: required fields, ambiguous content, reads with little memory."""

import json
import random
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.packed import add, images_of, parquet_of, webdataset_of
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import ids_of
from writers.sources import parquet
from writers.sources.parquet import ParquetFiles
from writers.sources.webdataset import MAX_LABEL_BYTES
from writers.text_names import MAX_PATH

pa = pytest.importorskip("pyarrow", reason="Parquet shards need pyarrow, an extra")
pq = pytest.importorskip("pyarrow.parquet")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def opened(path: Path | list[Path], dataset: str = "folder"):
    return open_dataset(dataset, path, SplitSettings(0))


def shard(
    path: Path,
    labels: list,
    image_paths: list | None = None,
    *,
    column: str = "image",
    names: list | None = None,
    type: str = "int64",
    row_group_size: int = 3,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    hub_metadata = (
        {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
        if names
        else None
    )
    rows = [
        {column: {"bytes": b"image %d" % row, "path": path}, "label": label}
        for row, (label, path) in enumerate(
            zip(labels, image_paths or [None] * len(labels), strict=True)
        )
    ]
    schema = pa.schema([(column, IMAGE), ("label", getattr(pa, type)())], metadata=hub_metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=row_group_size)
    return path


def test_rows_are_read_by_row_group_with_a_small_cache(tree: Path, tmp_path: Path, monkeypatch):
    hub = parquet_of(tree, tmp_path)
    expected = [path.read_bytes() for _, path in images_of(tree, "train")[::-1][::2]]
    whole_groups = []
    real = ParquetFiles._row_group

    def counting(self, shard: int, group: int):
        images = real(self, shard, group)
        assert len(images) <= 4
        whole_groups.append(images.nbytes)
        return images

    monkeypatch.setattr(ParquetFiles, "_row_group", counting)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)  # nothing is cached
    files = ParquetFiles([hub / "data" / "train-00000-of-00002.parquet"])
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(files.read, [f"0/{row}" for row in range(len(expected))] * 5))
            == expected * 5
        )
    assert files._cached_bytes == 0 and not files._cache
    monkeypatch.setattr(parquet, "CACHE_BYTES", 2**20)
    assert [files.read(f"0/{row}") for row in (7, 0, 3, 7)] == [
        expected[row] for row in (7, 0, 3, 7)
    ]
    assert len(files._cache) == 2
    assert files._cached_bytes == sum(images.nbytes for images in files._cache.values())


def test_images_without_paths_are_named_by_row_and_classes_by_number(
    tmp_path: Path,
):
    shard(tmp_path / "hub" / "train" / "0000.parquet", [10, 2, 2], column="img", type="int32")
    source = opened(tmp_path / "hub")
    assert source.classes == ["0002", "0010"]
    assert [(example.name, example.label) for example in source.splits["train"]] == [
        ("0010/0000-0000000", 1),
        ("0002/0000-0000001", 0),
        ("0002/0000-0000002", 0),
    ]
    assert source.read(source.splits["train"][2]) == b"image 2"
    assert source.where(source.splits["train"][2]).endswith("train/0000.parquet, row 2")


def test_splits_are_drawn_from_a_single_shard(tmp_path: Path):
    source = open_dataset(
        "folder",
        shard(tmp_path / "pets.parquet", [0, 1] * 10, names=["cat", "dog"]),
        SplitSettings(0.2),
    )
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 0,
    }


def test_imagenets_labels_and_paths_must_agree(tmp_path: Path):
    good = ["a_n01440764.JPEG", "b_n01443537.JPEG"]
    for split in ("train", "validation"):
        shard(tmp_path / "in" / f"{split}-0.parquet", [0, 1], good)
    assert [example.name for example in opened(tmp_path / "in", "imagenet").splits["train"]] == [
        "n01440764/a",
        "n01443537/b",
    ]
    shard(tmp_path / "in" / "train-0.parquet", [1, 0], good)
    with pytest.raises(
        UserError,
        match=r"row 0: the path a_n01440764.JPEG is of class n01440764, the label of n01443537",
    ):
        opened(tmp_path / "in", "imagenet")
    shard(tmp_path / "in" / "train-0.parquet", [0, 1000], [None, None])
    with pytest.raises(UserError, match="has the label 1000; there are 1,000 classes"):
        opened(tmp_path / "in", "imagenet")
    for split in ("train", "validation"):
        shard(tmp_path / "in" / f"{split}-0.parquet", [0, 1], good, names=["tench", "goldfish"])
    with pytest.raises(UserError, match="names 2 classes, such as tench; the dataset has 1000"):
        opened(tmp_path / "in", "imagenet")


def test_unsuitable_parquet_files_are_refused(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "text.parquet")
    for path, words in (
        (
            tmp_path / "text.parquet",
            r"has the columns text \(string\), label \(int64\); it needs image",
        ),
        (shard(tmp_path / "float.parquet", [1.0], type="float64"), "it needs image"),
        (shard(tmp_path / "val-0.parquet", [1]), "no images to train on, only val"),
        (shard(tmp_path / "train-0.parquet", [-1, None]), "no images to train on"),
    ):
        with pytest.raises(UserError, match=words):
            opened(path)
    (
        shard(tmp_path / "mixed" / "train-0.parquet", [0]),
        shard(tmp_path / "mixed" / "more.parquet", [0]),
    )
    with pytest.raises(UserError, match="some images have a split, and others have none"):
        opened(tmp_path / "mixed")
    shard(tmp_path / "named" / "train-0.parquet", [0], names=["cat"])
    shard(tmp_path / "named" / "train-1.parquet", [0], names=["dog"])
    with pytest.raises(
        UserError, match=r"train-1\.parquet names other classes than .*train-0\.parquet"
    ):
        opened(tmp_path / "named")


def test_damaged_parquet_is_an_error_naming_the_file(tmp_path: Path):
    path = shard(tmp_path / "train-0.parquet", [0] * 9)
    source, whole = opened(path), path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"train-0\.parquet is not a complete Parquet file"):
        opened(path)
    with pytest.raises(OSError, match="row group 2 is damaged"):
        source.read(source.splits["train"][8])
    damaged = shard(tmp_path / "train-1.parquet", [0])
    table = pq.read_table(damaged)
    pq.write_table(
        table.set_column(
            0, table.schema.field("image"), pa.array([{"bytes": None, "path": "x"}], IMAGE)
        ),
        damaged,
    )
    source = opened(damaged)
    with pytest.raises(OSError, match="no bytes"):
        source.read(source.splits["train"][0])


def test_without_pyarrow_the_error_names_the_fix(tmp_path: Path, monkeypatch):
    path = shard(tmp_path / "train-0.parquet", [0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs pyarrow\.\npip install 'harness\[parquet\]'"):
        opened(path)


def wds(path: Path, samples: dict[str, bytes]) -> Path:
    """Write a WebDataset shard, a tar of the samples' files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in samples.items():
            add(archive, name, data)
    return path


def test_webdataset_labels_are_read_from_each_kind_of_file(tmp_path: Path):
    path = wds(
        tmp_path / "pets-train-0.tar",
        {
            "a/1.cls": b"dog\n",
            "a/1.jpg": b"one",
            "a/2.jpg": b"two",
            "a/2.txt": b"words",
            "a/2.json": b'{"label": "cat"}',
            "a/3.json": b'{"class_id": "cat", "filename": "x/cat/deep/9.png"}',
            "a/3.PNG": b"three",
            "note.txt": b"no image",
        },
    )
    source = opened(path)
    assert [
        (example.name, source.classes[example.label], source.read(example))
        for example in source.splits["train"]
    ] == [("dog/1", "dog", b"one"), ("cat/2", "cat", b"two"), ("cat/deep/9", "cat", b"three")]
    numbered = wds(
        tmp_path / "n" / "train-0.tar",
        {"1.jpg": b"x", "1.cls": b"12", "2.jpg": b"x", "2.cls": b"3"},
    )
    assert opened(numbered).classes == ["0003", "0012"]
    assert opened(tmp_path / "n").classes == ["0003", "0012"]
    (tmp_path / "n" / "classes.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(UserError, match=r"train-0\.tar:1 has the label 12; there are 4 classes"):
        opened(tmp_path / "n")


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ({"1.jpg": b"x", "1.cls": b""}, r"train-0\.tar:1 has no label"),
        ({"1.jpg": b"x", "1.json": b"{}"}, "has no label"),
        ({"1.jpg": b"x", "1.json": b'{"label": {"a": 2}}'}, "has the label"),
        ({"1.jpg": b"x", "1.json": b"[1"}, r"train-0\.tar:1\.json is not JSON"),
        ({"1.jpg": b"x", "1.json": b"[" * 100_000}, r"train-0\.tar:1\.json is not JSON"),
        ({"1.jpg": b"x", "1.cls": bytes(MAX_LABEL_BYTES + 1)}, "more than a label"),
        ({"1.jpg": b"x", "1.json": bytes(MAX_LABEL_BYTES + 1)}, "more than a label"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "has no label"),
        ({"1.jpg": b"x", "1.json": b"[1]", "1.cls": b""}, "has no label"),
        (
            {
                "1.jpg": b"x",
                "1.cls": b"0",
                "2.txt": b"",
                "1.jpg ": b"",
                "./1.jpg": b"x",
                "./1.cls": b"0",
            },
            "twice",
        ),
    ],
)
def test_invalid_samples_are_refused(tmp_path: Path, samples: dict[str, bytes], words: str):
    with pytest.raises(UserError, match=words):
        opened(wds(tmp_path / "train-0.tar", samples))


def test_names_and_labels_that_are_no_unicode_text_become_escapes(tmp_path: Path):
    half = b'{"label": "x\\ud800", "filename": "\\udfff.png"}'  # halves of surrogate pairs
    source = opened(wds(tmp_path / "train-0.tar", {"1.jpg": b"x", "1.json": half}))
    assert source.classes == ["x\\ud800"]
    assert [example.name for example in source.splits["train"]] == ["x\\ud800/\\udfff"]
    image, label = (b"caf\xe9.jpg", b"caf\xe9.cls")
    names = [name.decode("utf-8", "surrogateescape") for name in (image, label)]
    source = opened(wds(tmp_path / "train-1.tar", dict(zip(names, (b"x", b"0"), strict=True))))
    assert [example.name for example in source.splits["train"]] == ["0000/caf\\xe9"]
    assert len(ids_of(source.splits["train"])) == 1
    named = shard(tmp_path / "train-2.parquet", [0, 1], names=["\ud800", "b"])
    assert opened(named).classes == ["\\ud800", "b"]


def test_class_names_in_windows_encoding_are_refused(tmp_path: Path):
    """If each invalid byte were replaced by the same character, distinct names would be equal."""
    shard_of = {"1.jpg": b"x", "1.cls": b"caf\xe9"}
    with pytest.raises(UserError, match=r"1\.cls:1 cannot be read as text in UTF-8: 'caf\xe9'"):
        opened(wds(tmp_path / "named" / "train-0.tar", shard_of))
    in_json = {"1.jpg": b"x", "1.json": b'{"label": "caf\xe9"}'}
    with pytest.raises(UserError, match=r"1\.json:1 cannot be read as text in UTF-8"):
        opened(wds(tmp_path / "json" / "train-0.tar", in_json))
    numbered = wds(tmp_path / "listed" / "train-0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    (numbered.parent / "classes.txt").write_bytes("pug\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt:2 cannot be read as text") as refused:
        opened(numbered)
    assert "iconv" in refused.value.hint


@pytest.mark.parametrize(
    ("part", "type"),
    [
        ("bytes", "string"),
        ("bytes", "int64"),
        ("bytes", "list<binary>"),
        ("path", "int64"),
        ("path", "binary"),
        ("path", "list<string>"),
        ("path", "struct<string>"),
    ],
)
def test_images_of_other_types_are_refused(tmp_path: Path, part: str, type: str):
    outer, _, inner = type.rstrip(">").partition("<")
    own = getattr(pa, inner or outer)()
    if inner:
        own = pa.list_(own) if outer == "list" else pa.struct([("a", own)])
    types = {"bytes": pa.binary(), "path": pa.string(), part: own}
    schema = pa.schema([("image", pa.struct(list(types.items()))), ("label", pa.int64())])
    path = tmp_path / "train-0.parquet"
    rows = [{"image": {"bytes": None, "path": None}, "label": 0}]
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    with pytest.raises(UserError, match="it needs image, with bytes and path"):
        opened(path)


def test_a_column_of_huge_paths_is_refused_before_it_is_read(tmp_path: Path, monkeypatch):
    long = "p" * (MAX_PATH * (MAX_PATH + 2))
    path = shard(tmp_path / "train-0.parquet", [0], [long])
    monkeypatch.setattr(ParquetFiles, "labels_and_paths", lambda *_: pytest.fail("it is read"))
    with pytest.raises(UserError, match="more than paths of files"):
        opened(path)


def test_errors_of_damaged_shards_are_one_line_and_a_hint(tmp_path: Path):
    """Also where pyarrow's own text has several lines."""
    whole = shard(tmp_path / "train-0.parquet", [0] * 6, [f"{n}.png" for n in range(6)])
    data, draws = whole.read_bytes(), random.Random(5)
    seen = set()
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[draws.randrange(4, len(data) - 8)] = draws.choice((0, 14, 127, 128, 255))
        whole.write_bytes(damaged)
        try:
            source = opened(whole)
            for example in source.splits["train"]:
                source.read(example)
        except (UserError, OSError) as error:
            text = error.message if isinstance(error, UserError) else str(error)
            assert "\n" not in text
            seen.add(type(error))
    assert seen == {UserError, OSError}


def test_a_truncated_shard_is_named(tree: Path, tmp_path: Path):
    folder = webdataset_of(tree, tmp_path)
    last = sorted(folder.glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"{last.name} is not a complete"):
        opened(folder)


def test_a_tree_with_a_stray_archive_or_table_is_still_a_tree(tree: Path, tmp_path: Path):
    expected = opened(tree).splits
    pq.write_table(pa.table({"text": ["a"]}), tree / "train" / "metadata.parquet")
    with tarfile.open(tree / "backup.tar", "w") as archive:
        archive.add(tree / "train", "train")
    assert opened(tree).splits == expected
