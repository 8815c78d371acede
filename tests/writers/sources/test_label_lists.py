"""Lists of labels in shards, and labels that are missing."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.packed import add
from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog", "owl"]
LABELS = [[0], [2, 0], [], [1, 2]]
CLASSLABEL = {"names": NAMES, "_type": "ClassLabel"}


def opened(path: Path) -> Source:
    return open_dataset("folder", path, SplitSettings(val=0))


def image(number: int) -> bytes:
    data = io.BytesIO()
    picture(number, 40, 30, "RGB").save(data, "PNG")
    return data.getvalue()


def parquet(
    path: Path, labels: list[Any], type_: pa.DataType, column: str = "label", feature: Any = None
) -> Path:
    metadata = {"huggingface": json.dumps({"info": {"features": {column: feature}}})}
    schema = pa.schema([("image", IMAGE), (column, type_)], metadata=metadata if feature else None)
    rows = [
        {"image": {"bytes": image(row), "path": f"{row}.png"}, column: label}
        for row, label in enumerate(labels)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def webdataset(path: Path, labels: list[Any], extension: str = "json", key: str = "label") -> Path:
    with tarfile.open(path, "w") as archive:
        for row, label in enumerate(labels):
            add(archive, f"{row}.png", image(row))
            content = {key: label} if extension == "json" else label
            add(archive, f"{row}.{extension}", json.dumps(content).encode())
    return path


def marks(source: Source) -> list[tuple[int, ...] | None]:
    return [example.labels for example in source.splits["train"]]


@pytest.mark.parametrize(
    "feature", [{"feature": CLASSLABEL, "_type": "Sequence"}, [CLASSLABEL], None]
)
def test_lists_of_labels_in_parquet_are_several_labels(tmp_path: Path, feature: Any):
    list_of_numbers, list_of_names = pa.list_(pa.int64()), pa.list_(pa.string())
    source = opened(parquet(tmp_path / "t.parquet", LABELS, list_of_numbers, "labels", feature))
    assert source.multi_label
    assert source.classes == (NAMES if feature else ["0000", "0001", "0002"])
    assert marks(source) == [(1, -1, -1), (1, -1, 1), (-1, -1, -1), (-1, 1, 1)]
    named = [[NAMES[label] for label in own] for own in LABELS]
    by_name = opened(parquet(tmp_path / "n.parquet", named, list_of_names))
    assert (by_name.classes, marks(by_name)) == (NAMES, marks(source))
    one = opened(parquet(tmp_path / "one.parquet", ["dog", "cat", "dog"], pa.string()))
    assert not one.multi_label and [e.label for e in one.splits["train"]] == [1, 0, 1]


@pytest.mark.parametrize(("extension", "key"), [("json", "label"), ("json", "labels"), ("cls", "")])
def test_lists_of_labels_in_webdataset_are_several_labels(tmp_path: Path, extension: str, key: str):
    folder = tmp_path / "w"
    folder.mkdir()
    webdataset(folder / "train-0.tar", LABELS, extension, key)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    source = opened(folder)
    assert source.multi_label and source.classes == NAMES
    assert marks(source) == [(1, -1, -1), (1, -1, 1), (-1, -1, -1), (-1, 1, 1)]
    file = tmp_path / "train.beton"
    write_split(source, "train", everything(NAMES), Encoding(), file)
    beton = open_beton(file)
    assert beton.manifest.multi_label and beton.manifest.class_counts == [2, 1, 2]
    assert sorted(map(tuple, beton.labels.tolist())) == sorted(marks(source))


def test_shards_with_and_without_lists_are_joined(tmp_path: Path):
    places = []
    for split, labels in (("train", [["cat"], ["dog", "cat"]]), ("val", ["cat", "dog"])):
        (tmp_path / split).mkdir()
        places.append(webdataset(tmp_path / split / "0.tar", labels).parent)
    source = open_dataset("folder", places, SplitSettings(val=0))
    assert marks(source) == [(1, -1), (1, 1)]
    assert [example.labels for example in source.splits["val"]] == [(1, -1), (-1, 1)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1, 0, 1]], "the label 0 twice in its list"),
        ([[0, -1]], "a list of labels with -1 in it"),
        ([[0, None]], "a list of labels with None in it"),
    ],
)
def test_lists_that_are_no_labels_are_refused(tmp_path: Path, labels: list, message: str):
    path = parquet(tmp_path / "t.parquet", [[0], *labels], pa.list_(pa.int64()))
    with pytest.raises(UserError, match=rf"t\.parquet, row 1, has {message}"):
        opened(path)
    with pytest.raises(UserError, match=f"has {message}"):
        opened(webdataset(tmp_path / "train-0.tar", [[0], *labels]))


@pytest.mark.parametrize("label", [None, ""])
def test_missing_labels_of_webdatasets_are_refused_in_one_line(tmp_path: Path, label: Any):
    path = webdataset(tmp_path / "train-0.tar", ["cat", label])
    with pytest.raises(UserError) as caught:
        opened(path)
    assert caught.value.message == f"{path}:1 has no label."


def test_missing_labels_in_parquet_are_refused(tmp_path: Path):
    path = parquet(tmp_path / "t.parquet", [0, None, 1, None], pa.int64())
    with pytest.raises(UserError) as caught:
        opened(path)
    assert caught.value.message == f"{path} has no label in 2 of the 4 rows; the first is row 1."
    with pytest.raises(UserError, match="has no label in 1 of the 2 rows"):
        opened(parquet(tmp_path / "t.parquet", ["a", ""], pa.string()))
    with pytest.raises(UserError, match="label, a whole number, a name, or a list"):
        opened(parquet(tmp_path / "t.parquet", [0.5], pa.float64()))
    parquet(tmp_path / "train-0.parquet", [0, 1, -1], pa.int64())
    parquet(tmp_path / "test-0.parquet", [None, None], pa.int64())
    path.unlink()
    source = opened(tmp_path)
    assert len(source.splits["train"]) == 2
    assert [entry.count for entry in source.omissions] == [3]
