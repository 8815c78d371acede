"""Labels from a table: layouts in use, an equal tree as the oracle, and rows that cannot be used."""

import csv
import json
import shutil
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers.pictures import picture
from writers import raw_files
from writers.beton.encoding import Encoding
from writers.beton.provenance import open_with_origin
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.labels.settings import LabelTable
from writers.source import Source
from writers.subset.spec import everything

SPLITS = SplitSettings(val=0.25, test=0.25, seed=3)
BREEDS = {f"{index:02x}": ("beagle", "pug", "saluki")[index % 3] for index in range(15)}


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """Images in train/ and, without labels, in test/."""
    root = tmp_path / "dogs"
    for folder in ("train", "test"):
        (root / folder).mkdir(parents=True)
    for index, name in enumerate(BREEDS):
        picture(index, 40, 50, "RGB").save(root / "train" / f"{name}.jpg")
    picture(99, 40, 50, "RGB").save(root / "test" / "ff.jpg")
    return root


def write_csv(path: Path, *rows: Sequence[Any], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def opened(
    images: Path, *tables: Path, splits: SplitSettings | None = None, **settings: Any
) -> Source:
    """Open images with labels from tables; settings are those of `LabelTable`.

    If `splits` is None, no val split is drawn.
    """
    table = LabelTable(files=tuple(map(str, tables)), **settings)
    return open_dataset("folder", images, splits or SplitSettings(val=0), table)


def labels_of(source: Source, split: str = "train") -> dict[str, list[str]]:
    """Return the labels of each image, by key."""
    return {
        example.key: [
            name
            for label, name in enumerate(source.classes)
            if (example.label == label if example.labels is None else example.labels[label] == 1)
        ]
        for example in source.splits[split]
    }


def expected_labels(folder: str = "train/") -> dict[str, list[str]]:
    return {f"{folder}{name}.jpg": [breed] for name, breed in BREEDS.items()}


def problems(images: Path, *tables: Path, **settings: Any) -> list[str]:
    """Return the lines of the error that refuses the tables."""
    with pytest.raises(UserError) as caught:
        opened(images, *tables, **settings)
    return [line.strip() for line in caught.value.message.splitlines()]


def test_a_table_gives_the_beton_of_an_equal_tree(dogs: Path, tmp_path: Path):
    tree = tmp_path / "tree" / "dogs"
    for name, breed in BREEDS.items():
        (tree / breed).mkdir(parents=True, exist_ok=True)
        shutil.copy2(dogs / "train" / f"{name}.jpg", tree / breed)
    write_csv(dogs / "labels.csv", ("id", "breed"), *BREEDS.items())
    from_tree = open_dataset("folder", tree, SPLITS)
    from_table = opened(dogs / "train", dogs / "labels.csv", splits=SPLITS)
    for split in ("train", "val", "test"):
        digests = set()
        for kind, source in (("tree", from_tree), ("table", from_table)):
            file = tmp_path / kind / f"{split}.beton"
            write_split(source, split, everything(source.classes), Encoding(), file)
            digests.add(open_beton(file).manifest.sha256)
        assert len(digests) == 1


@pytest.mark.parametrize(
    ("header", "file"),
    [
        (("id", "breed"), "{}"),
        (("image_id", "label"), "{}"),
        (("Image", "Category"), "train/{}.jpg"),
        (("file_name", "species"), "{}.jpg"),
        (("path", "class"), "./train/{}"),
        (("filename", "anything"), "train\\{}.jpg"),
    ],
)
def test_common_column_and_file_names_are_recognized(
    dogs: Path, header: tuple[str, str], file: str
):
    rows = [(file.format(name), breed) for name, breed in BREEDS.items()]
    write_csv(dogs / "train.csv", header, *rows)
    source = opened(dogs, dogs / "train.csv")
    assert labels_of(source) == expected_labels()
    (left_out,) = source.omissions
    assert (left_out.count, left_out.names) == (1, ("test/ff.jpg",))
    assert left_out.reason == "images that the table of labels does not name"


def as_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def as_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_all_formats_give_the_same_labels(dogs: Path, tmp_path: Path):
    names, breeds = list(BREEDS), list(BREEDS.values())
    records = [{"image": name, "label": breed} for name, breed in BREEDS.items()]
    coco = {
        "images": [{"id": index, "file_name": f"{name}.jpg"} for index, name in enumerate(names)],
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(sorted(set(breeds)))],
        "annotations": [
            {"image_id": index, "category_id": 7 + sorted(set(breeds)).index(breed)}
            for index, breed in enumerate(breeds)
        ],
    }
    lines = tmp_path / "l.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    excel = tmp_path / "excel.csv"
    excel.write_text("\ufeffimage;label\r\n" + "".join(f"{n};{b}\r\n" for n, b in BREEDS.items()))
    tables = [
        as_json(tmp_path / "records.json", records),
        as_json(tmp_path / "mapping.json", BREEDS),
        as_json(tmp_path / "nested.json", {n: {"label": b, "x": 1} for n, b in BREEDS.items()}),
        lines,
        excel,
        write_csv(tmp_path / "l.tsv", ("image", "label"), *BREEDS.items(), delimiter="\t"),
        as_parquet(tmp_path / "l.parquet", {"image_id": names, "label": breeds}),
    ]
    for table in tables:
        assert labels_of(opened(dogs, table)) == expected_labels(), table
    source = opened(dogs, as_json(tmp_path / "coco.json", coco))
    assert source.multi_label and labels_of(source) == expected_labels()


def test_one_hot_columns_are_one_label_and_others_several(dogs: Path):
    classes = ["beagle", "pug", "saluki"]
    rows = [[name, *(int(breed == one) for one in classes)] for name, breed in BREEDS.items()]
    table = write_csv(dogs / "train.csv", ["image_id", *classes], *rows)
    source = opened(dogs, table)
    assert not source.multi_label and labels_of(source) == expected_labels()
    assert opened(dogs, table, several=True).multi_label
    rows[0][1:] = [0, 0, 0]
    rows[1][1:] = [1, 1, 0]
    table = write_csv(dogs / "train.csv", ["image_id", *reversed(classes)], *rows)
    source = opened(dogs, table)
    assert source.multi_label and source.classes == classes[::-1]
    assert source.splits["train"][0].labels == (-1, -1, -1)
    assert source.splits["train"][1].labels == (1, 1, -1)
    assert problems(dogs, table, several=False)[1:] == [
        "row 2: 0 classes have a 1 instead of one",
        "row 3: 2 classes have a 1 instead of one",
    ]
    signs = [[name, 1, -1, -1] for name in BREEDS]
    source = opened(dogs, write_csv(dogs / "train.csv", ["image_id", *classes], *signs))
    assert labels_of(source)["train/00.jpg"] == ["beagle"]
    signs[0][2] = 0
    with pytest.raises(UserError, match="0 or -1 means absent"):
        opened(dogs, write_csv(dogs / "train.csv", ["image_id", *classes], *signs))


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (["a b", "b", "c a"], {"separator": " "}),
        (["a;b", "b", "c; a"], {"separator": ";"}),
        (["['a', 'b']", "['b']", '["c", "a"]'], {}),
        ([["a", "b"], ["b"], ["c", "a"]], {}),
    ],
)
def test_several_labels_in_one_column_are_split(
    dogs: Path, tmp_path: Path, values: list, settings: dict
):
    records = [{"id": f"0{i}", "tags": value} for i, value in enumerate(values)]
    source = opened(dogs, as_json(tmp_path / "t.json", records), **settings)
    assert source.multi_label and source.classes == ["a", "b", "c"]
    assert list(labels_of(source).values()) == [["a", "b"], ["b"], ["a", "c"]]


def test_an_ambiguous_label_column_needs_a_setting(dogs: Path):
    rows = [("00", "golden retriever"), ("01", "pug")]
    table = write_csv(dogs / "t.csv", ("id", "label"), *rows)
    assert opened(dogs, table).classes == ["golden retriever", "pug"]
    table = write_csv(dogs / "t.csv", ("id", "labels"), *rows)
    with pytest.raises(UserError, match="row 2: it is unclear whether 'golden retriever'"):
        opened(dogs, table)
    assert opened(dogs, table, several=False).classes == ["golden retriever", "pug"]
    assert opened(dogs, table, separator=" ").classes == ["golden", "pug", "retriever"]
    table = write_csv(dogs / "t.csv", ("id", "label"), ("00", "a|b"))
    with pytest.raises(UserError, match=r"separated by '\|'"):
        opened(dogs, table)


def test_several_rows_of_an_image_are_several_labels(dogs: Path):
    rows = [("00", "a"), ("01", "b"), ("00", "b")]
    table = write_csv(dogs / "t.csv", ("id", "label"), *rows)
    assert problems(dogs, table)[1:] == ["row 4: train/00.jpg is already in row 2"]
    source = opened(dogs, table, several=True)
    assert labels_of(source) == {"train/00.jpg": ["a", "b"], "train/01.jpg": ["b"]}
    table = write_csv(dogs / "t.csv", ("id", "label"), *rows, rows[0])
    assert problems(dogs, table, several=True)[1:] == ["row 5: train/00.jpg is already in row 2"]


def test_rows_that_cannot_be_used_are_all_named(dogs: Path):
    rows = [
        ("00", "pug"),
        ("00.jpg", "pug"),
        ("nowhere", "pug"),
        ("/etc/passwd", "pug"),
        ("C:\\a.jpg", "pug"),
        ("../dogs/train/01", "pug"),
        ("train/../../x", "pug"),
        ("01", " "),
        ("", "pug"),
        ("02", "pug", "more"),
    ]
    table = write_csv(dogs / "t.csv", ("id", "breed"), *rows)
    assert sorted(problems(dogs, table)) == sorted(
        [
            f"9 rows of {table} cannot be used:",
            "row 3: train/00.jpg is already in row 2",
            "row 4: there is no image nowhere",
            "row 5: /etc/passwd is an absolute path",
            "row 6: C:\\a.jpg is an absolute path",
            "row 7: ../dogs/train/01 is outside of the folder",
            "row 8: train/../../x is outside of the folder",
            "row 9: it has no label",
            "row 10: it names no file",
            "row 11: it has other than 2 values",
        ]
    )
    rows = [(f"x{number}", "pug") for number in range(100)]
    lines = problems(dogs, write_csv(dogs / "t.csv", ("id", "breed"), *rows))
    assert len(lines) == 22 and lines[-1] == "and 80 more"


def test_names_that_fit_several_images_are_refused(dogs: Path):
    shutil.copy2(dogs / "test" / "ff.jpg", dogs / "test" / "00.jpg")
    table = write_csv(dogs / "labels.csv", ("id", "breed"), *BREEDS.items())
    assert problems(dogs, table)[1:] == ["row 2: 00 may be test/00.jpg or train/00.jpg"]
    table = table.rename(dogs / "train.csv")
    assert labels_of(opened(dogs, table)) == expected_labels()
    assert labels_of(opened(dogs / "train", table)) == expected_labels("")
    shutil.copy2(dogs / "train" / "00.jpg", dogs / "train" / "00.png")
    assert problems(dogs, table)[1:] == ["row 2: 00 may be train/00.jpg or train/00.png"]


def test_splits_come_from_a_column_tables_or_folders(dogs: Path):
    split_of = {name: ("Training", "valid", "TEST")[i % 3] for i, name in enumerate(BREEDS)}
    rows = [(name, breed, split_of[name]) for name, breed in BREEDS.items()]
    source = opened(dogs, write_csv(dogs / "t.csv", ("id", "breed", "split"), *rows))
    assert {split: len(images) for split, images in source.splits.items()} == {
        "train": 5,
        "val": 5,
        "test": 5,
    }
    for split in ("train", "val"):
        named = {"train": "Training", "val": "valid"}[split]
        part = [row[:2] for row in rows if row[2] == named]
        write_csv(dogs / f"{split}.csv", ("id", "breed"), *part)
    from_tables = opened(dogs, dogs / "train.csv", dogs / "val.csv")
    assert from_tables.splits["val"] == source.splits["val"]
    assert [len(images) for images in from_tables.splits.values()] == [5, 5, 0]
    rows[4] = (*rows[4][:2], "holdout")
    table = write_csv(dogs / "t.csv", ("id", "breed", "split"), *rows)
    assert problems(dogs, table)[1:] == ["row 6: 'holdout' is not a split"]
    assert len(opened(dogs, table, split_column="").splits["train"]) == 15
    both = [(f"train/{name}", breed) for name, breed in BREEDS.items()]
    table = write_csv(dogs / "t.csv", ("path", "label"), *both, ("test/ff", "pug"))
    assert labels_of(opened(dogs, table), "test") == {"test/ff.jpg": ["pug"]}


def test_names_match_in_other_unicode_forms_and_encodings(tmp_path: Path):
    root = tmp_path / "photos"
    root.mkdir()
    decomposed, latin = (
        unicodedata.normalize("NFD", "café"),
        b"\xe9t\xe9".decode("utf-8", "surrogateescape"),
    )
    for index, name in enumerate((decomposed, latin)):
        picture(index, 40, 50, "RGB").save(root / f"{name}.png")
    table = write_csv(tmp_path / "t.csv", ("file", "label"), ("café.png", "a"), (latin, "b"))
    assert sorted(labels_of(opened(root, table)).values()) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,breed\n00,pug\n01,caf\xe9\n", "row 3: the label 'caf\xe9' is not UTF-8"),
        ("t.tsv", "id\tbreed\n00\tcaf\xe9|pug\n", "row 2: the label 'caf\xe9|pug' is not UTF-8"),
        ("t.json", '{"00": ["pug", "caf\xe9"]}', "row 1: the label 'caf\xe9' is not UTF-8"),
        ("t.jsonl", '{"id": "00", "breed": "\x80"}', "row 1: the label '\u20ac' is not UTF-8"),
        ("t.csv", "id,pug,caf\xe9\n00,0,1\n", "row 1: the class 'caf\xe9' is not UTF-8"),
        ("t.csv", "id,breed\ncaf\xe9,pug\n", "there is no image caf"),
    ],
)
def test_labels_in_windows_encoding_are_refused_with_the_conversion(
    name: str, content: str, message: str, dogs: Path, tmp_path: Path
):
    """Classes were named `caf\\xe9`."""
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as refused:
        opened(dogs, tmp_path / name, separator="|")
    assert message in refused.value.message and "iconv -f WINDOWS-1252" in refused.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_in_unicode_keep_their_accents(encoding: str, dogs: Path, tmp_path: Path):
    rows = "".join(f"{name},caf\u00e9\n" for name in BREEDS)
    (tmp_path / "t.csv").write_bytes(f"id,breed\n{rows}".encode(encoding))
    assert opened(dogs, tmp_path / "t.csv").classes == ["caf\u00e9"]


def test_images_of_an_archive_can_have_a_table(dogs: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "dogs.zip", "w") as archive:
        for file in sorted((dogs / "train").iterdir()):
            archive.write(file, f"dogs/train/{file.name}")
    table = write_csv(tmp_path / "t.csv", ("id", "breed"), *BREEDS.items())
    source = opened(tmp_path / "dogs.zip", table)
    assert labels_of(source) == expected_labels("dogs/train/")
    assert source.read(source.splits["train"][0]) == (dogs / "train" / "00.jpg").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"id,breed\n", "has no rows"),
        ("t.csv", b"00.jpg,pug\n01.jpg,pug\n", "none of the columns 00.jpg, pug is recognized"),
        ("t.csv", b"id,a,b\n00,x,y\n", "none of the columns id, a, b is recognized as labels"),
        ("t.csv", b"id,class,species\n00,x,y\n", "unclear whether class or species"),
        ("t.csv", b"id,breed,split,set\n00,x,train,train\n", "unclear whether split or set"),
        ("t.csv", b"file,path,label\n00,x,y\n", "unclear whether file or path"),
        ("t.csv", b"id,breed\n00," + b"x" * 200_000, "field larger than field limit"),
        ("t.csv", b'id,breed\n00,"pug\n01,pug\n02,pug\n', "row 2: unexpected end of data"),
        ("t.csv", b'id,breed\n00,pug\n01,"pug"gle\n', "row 3: ',' expected after"),
        ("t.json", b"[1, 2]", "row 1, is not a record"),
        ("t.json", b"3", "neither a list of records"),
        ("t.json", b"[" * 100_000, "is not JSON"),
        ("t.json", b'{"00": "pug", "00": "beagle"}', "'00' is repeated"),
        ("t.json", b'{"images": [{}], "annotations": []}', "another form than COCO's"),
        ("t.json", b'{"00": {"label": {"a": 1}}}', "a label is a dict instead of a text"),
        ("t.jsonl", b'{"file": "00"\n', "row 1, is not JSON"),
        ("t.parquet", b"PAR1 and no more", "not a complete Parquet file"),
        ("t.parquet", b"PK", "not a complete Parquet file"),
        ("t.xlsx", b"PK", "not a table of labels that can be read"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(
    dogs: Path, name: str, content: bytes, message: str
):
    (dogs / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        opened(dogs, dogs / name)


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.parquet", "t.bin"])
def test_a_table_of_gigabytes_is_refused_unread(
    dogs: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    with (dogs / name).open("wb") as file:
        file.truncate(2**34)
    monkeypatch.setattr(raw_files, "content_digest", lambda *_: pytest.fail("it is read"))
    table = LabelTable(files=(str(dogs / name),))
    with pytest.raises(UserError, match=r"17\.2 GB|not a complete Parquet|not a table"):
        open_with_origin("folder", [dogs], SPLITS, table)


def test_a_lone_surrogate_of_a_label_becomes_an_escape(dogs: Path):
    (dogs / "t.json").write_bytes(b'{"00": "\\ud800"}')
    assert opened(dogs, dogs / "t.json").classes == ["\\ud800"]


def test_tables_without_effect_are_refused(dogs: Path):
    table = LabelTable(files=(str(write_csv(dogs / "t.csv", ("id", "label"), ("00", "a"))),))
    with pytest.raises(UserError, match="defines its labels"):
        open_dataset("pets", dogs, SPLITS, table)
    with pytest.raises(UserError, match="needs one folder"):
        open_dataset("folder", [dogs / "train", dogs / "test"], SPLITS, table)
    with pytest.raises(UserError, match="There is no table of labels"):
        opened(dogs, dogs / "absent.csv")
