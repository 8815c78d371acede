"""Subsets from user files: class lists, label maps, and budgets like another file's."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from harness.cli.main import cli
from writers.errors import UserError
from writers.subset.lists import (
    csv_field,
    imagenet_classes,
    line_of,
    read_class_list,
    read_rows,
)
from writers.subset.ranking import read_ranking
from writers.subset.spec import SubsetSpec, named, resolve


def test_a_text_file_has_one_class_per_line(tmp_path: Path):
    file = tmp_path / "fish.txt"
    file.write_text("# two\nn01443537\n\nn01440764\r\n")
    assert resolve(named(str(file)), imagenet_classes()).classes == ("n01440764", "n01443537")
    shown = CliRunner().invoke(cli, ["subset", "show", str(file)], catch_exceptions=False)
    assert shown.exit_code == 0 and "# fish: 2 classes" in shown.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "one per line"),
        (b"a\na\n", "twice"),
        (b"pug\ncaf\xe9\n", ":2 cannot be read as text in UTF-8: 'caf\xe9'"),
    ],
)
def test_an_invalid_class_list_is_refused(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        named(str(tmp_path / "bad.txt"))
    with pytest.raises(UserError, match="There is no file"):
        named(str(tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\r", "\u2028x", "a\x1cb", "#1", '"q"', " pad ", "a,b", "", "tab\tb", "é", "n01"],
)
def test_any_class_name_fits_in_each_text_file(tmp_path: Path, name: str):
    lines, rows = tmp_path / "classes.txt", tmp_path / "ranking.csv"
    lines.write_text(f"first\n{line_of(name)}\n\n# remark\nlast\n", newline="")
    assert read_class_list(lines) == ("first", name, "last")
    text = f"# remark\nclass,accuracy\n{csv_field(name)},0.5\n\nlast,0.25\n"
    rows.write_text(text, newline="")
    assert read_ranking(str(rows)).classes == ("last", name)
    rows.write_text(text.replace("last,0.25", "last,half"), newline="")
    with pytest.raises(
        UserError, match=f":{text[: text.index('last')].count(chr(10)) + 1}: 'half'"
    ):
        read_ranking(str(rows))


def test_names_with_line_breaks_and_commas_in_a_map(tmp_path: Path):
    label_of = {"a\nb": "x,y", "#c": "z\n"}
    rows = [f"{csv_field(name)},{csv_field(label)}" for name, label in label_of.items()]
    (tmp_path / "labels.map").write_text("# remark\n" + "\n".join(rows))
    steps = [{"coarsen": {"map": str(tmp_path / "labels.map")}}]
    spec = SubsetSpec.model_validate({"name": "x", "steps": steps})
    subset = resolve(spec, list(label_of))
    assert {
        name: label for label, (name,) in zip(subset.classes, subset.groups, strict=True)
    } == label_of


@pytest.mark.parametrize("text", ['a,"1\nb,2\n', 'a,"1"2\nb,2\n'])
def test_quotes_that_are_not_closed_are_refused(tmp_path: Path, text: str):
    """The open quote would make all later rows a part of one field."""
    (tmp_path / "ranks.csv").write_text(text)
    with pytest.raises(UserError, match="is not CSV"):
        list(read_rows(tmp_path / "ranks.csv"))


@pytest.mark.parametrize("kind", ["pipe", "huge"])
def test_pipes_and_huge_files_are_no_class_lists(tmp_path: Path, kind: str):
    path = tmp_path / "list.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(2**34)
    for read in (read_class_list, read_rows):
        with pytest.raises(UserError, match=r"not a regular file|more than"):
            list(read(path))


@pytest.mark.parametrize("name", ["huh-79", "huh-top-10", "in900"])
def test_a_map_printed_by_show_reads_back_as_the_same_labels(tmp_path: Path, name: str):
    shown = (
        CliRunner().invoke(cli, ["subset", "show", name, "--map"], catch_exceptions=False).stdout
    )
    (tmp_path / "labels.map").write_text(shown)
    subset = resolve(named(name), imagenet_classes())
    spec = SubsetSpec.model_validate(
        {
            "name": "again",
            "steps": [
                {"classes": list(subset.source_classes)},
                {"coarsen": {"map": str(tmp_path / "labels.map")}},
            ],
        }
    )
    classes = [
        class_name for class_name in imagenet_classes() if class_name in subset.source_classes
    ]
    again = resolve(spec, classes)
    assert {frozenset(group) for group in again.groups} == {
        frozenset(group)
        for group in subset.groups or [(class_name,) for class_name in subset.classes]
    }
    assert set(again.classes) == set(subset.classes)


def test_a_budget_like_a_file_depends_on_its_contents(tmp_path: Path):
    file = tmp_path / "own.yaml"

    def spec(**more: str) -> SubsetSpec:
        return SubsetSpec.model_validate(
            {"name": "b", "budget": {"like": str(file), "by": "examples", **more}}
        )

    file.write_text("classes: [a, b]\n")
    before = spec()
    assert SubsetSpec.model_validate(before.model_dump(mode="json")) == before
    file.write_text("classes: [a, c]\n")
    assert spec() != before
    with pytest.raises(ValidationError, match="has changed"):
        SubsetSpec.model_validate(before.model_dump(mode="json"))
    file.write_text("# the same\nclasses: [a, b]\n")
    assert spec() == before
    file.unlink()
    with pytest.raises(ValidationError):
        spec()
