"""Rankings of classes: order, ties, and CSV files."""

import csv
from pathlib import Path

import pytest

from tests.helpers import SHARED_DATA
from writers.errors import UserError
from writers.subset.ranking import FOLDER, rank, read_ranking
from writers.subset.spec import named

SHARED = SHARED_DATA / "imagenet_val_per_class_accuracy.csv"


def test_lower_accuracy_is_harder_and_ties_are_broken_by_tie_breaks_then_name():
    accuracy = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.1, "e": 0.9}
    ranking = rank(
        accuracy,
        [{"a": 0.3, "b": 0.2, "c": 0.2, "d": 0.9, "e": 0.0}],
        source="us",
        tie_break="mean of others",
    )
    assert ranking.classes == ("d", "b", "c", "a", "e")
    assert ranking.tie_break == "mean of others, then class name"
    assert ranking.restricted_to({"a", "e", "b"}).classes == ("b", "a", "e")


def test_the_packaged_ranking_covers_imagenet():
    ranking = read_ranking("resnet18_val")
    assert sorted(ranking.classes) == list(named("in1000").classes)
    values = [ranking.accuracy[name] for name in ranking.classes]
    assert values == sorted(values)
    # ResNet-18's mean top-1 accuracy, as the source of the ranking publishes it.
    assert sum(values) / 1000 == pytest.approx(0.6837, abs=5e-5)


@pytest.mark.skipif(
    not SHARED.exists(),
    reason="needs the table of published accuracies, which is not part of this project",
)
@pytest.mark.parametrize("number", [100, 200])
def test_the_packaged_subsets_match_the_published_table(number):
    with SHARED.open() as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (float(row["resnet18_top1"]), float(row["mean34_top1"]), row["wnid"]))
    kept = sorted(row["wnid"] for row in rows[number:])
    assert list(named(f"in{1000 - number}").classes) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wnid,top1\na,1\n", "class,accuracy"),
        ("", "class,accuracy"),
        ("class,accuracy\n", "ranks no class"),
        ("# remark\nclass,accuracy\na,0.5\nb,half\n", ":4: 'half'"),
        ("class,accuracy\na,0.5\na,0.6\n", ":3: class a"),
        ("class,accuracy,mean\na,0.5\n", ":2: 2 columns"),
        ("class,accuracy\na,nan\nb,0.5\n", ":2: 'nan'"),
        ('class,accuracy\n"a,0.5\nb,0.6\n', ":3: it is not CSV: unexpected end of data"),
        ("class,accuracy\ncaf\xe9,0.5\n", ":2 cannot be read as text in UTF-8: 'caf\xe9,0.5'"),
    ],
)
def test_an_invalid_ranking_file_names_the_line(tmp_path: Path, text: str, words: str):
    (tmp_path / "r.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=words):
        read_ranking(str(tmp_path / "r.csv"))


def test_a_file_written_by_a_spreadsheet_is_read(tmp_path: Path):
    (tmp_path / "r.csv").write_bytes(
        '\ufeffclass,accuracy\r\n"tiger, wild",0.5\r\ncaf\u00e9,0.25\r\n'.encode()
    )
    assert read_ranking(str(tmp_path / "r.csv")).classes == ("caf\u00e9", "tiger, wild")


@pytest.mark.skipif(
    not SHARED.exists(),
    reason="needs the table of published accuracies, which is not part of this project",
)
def test_the_packaged_ranking_equals_the_published_table():
    with SHARED.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["wnid"])
    with (FOLDER / "resnet18_val.csv").open() as file:
        ours = list(csv.reader(line for line in file if not line.startswith("#")))
    assert ours == [
        ["class", "accuracy", "mean34"],
        *([row["wnid"], row["resnet18_top1"], row["mean34_top1"]] for row in rows),
    ]


def test_an_unknown_ranking_suggests_similar_names():
    with pytest.raises(UserError, match="resnet18_val"):
        read_ranking("resnet18")
