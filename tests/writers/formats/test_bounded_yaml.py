"""Hostile YAML is refused in one line, in recipes and in subsets."""

import os
from pathlib import Path

import pytest

from harness.config import load
from writers.errors import UserError
from writers.formats.bounded_yaml import MAX_BYTES, BadYamlError, parse_yaml, read_yaml
from writers.subset.spec import read_spec

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
HOSTILE = {
    "aliases": LAUGHS,
    "itself": "a: &a\n  b: *a\n",
    "merged itself": "a: &self\n  <<: *self\n  b: 1\n",
    "list in itself": "a: &a [1, *a]\n",
    "deep": "a: " + "[" * 1500 + "]" * 1500,
    "deep blocks": "".join(f"{' ' * n}k:\n" for n in range(400)),
    "long scalar": "a: " + "x" * (20 * 2**20),
    "bad date": "a: 2026-99-99\n",
    "unclosed": "a: [1, 2",
    "long number": "a: 0x" + "f" * 5000,
    "tab": "a:\n\t- b",
    "control characters": "a: \x01\x1b[31m",
    "unknown alias": "a: *nowhere",
    "duplicate key": "a: 1\na: 2\n",
    "complex key": "{[1, 2]: {3: 4}}: 5\n",
    "bad merge": "a: 1\n<<: 5\n",
    "several documents": "a: 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_in_one_line(kind: str, tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text(HOSTILE[kind])
    with pytest.raises(BadYamlError) as problem:
        parse_yaml(HOSTILE[kind])
    for read in (load.read, read_spec):
        with pytest.raises(UserError) as caught:
            read(file)
        message = caught.value.message
        assert str(problem.value) in message and "\n" not in message and len(message) < 2000


def test_problems_are_whole_sentences_about_the_file():
    """Earlier, errors of the parser itself were shown: 'NoneType' object has no attribute ..."""
    with pytest.raises(BadYamlError, match=r"^it has a value that cannot be read$"):
        parse_yaml(HOSTILE["complex key"])
    with pytest.raises(BadYamlError, match=r"^the value contains itself$"):
        parse_yaml(HOSTILE["merged itself"])
    with pytest.raises(BadYamlError, match="a single document in the stream, but found another"):
        parse_yaml(HOSTILE["several documents"])


def test_a_python_tag_runs_nothing(tmp_path: Path):
    text = "a: !!python/object/apply:os.system [ls]\n"
    assert parse_yaml(text) == {"a": ["ls"]}
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match="a recipe cannot have YAML tags"):
        load.read(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("read", "pipe"), [(load.read, "is a pipe"), (read_spec, "is not a regular file")]
)
def test_pipes_and_bytes_are_refused(read, pipe: str, tmp_path: Path):
    os.mkfifo(tmp_path / "p.yaml")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    for name, words in (("p", pipe), ("b", "b.yaml:1 cannot be read as text in UTF-8: 'a: ÿþ'")):
        with pytest.raises(UserError, match=words):
            read(tmp_path / f"{name}.yaml")


def test_encodings_are_those_of_other_texts(tmp_path: Path):
    text = (
        "name: mine\nquestion: Café?\nmodels: [resnet10]\ntargets: [{path: t}]\nmethods: {full: {}}"
    )
    file, read = tmp_path / "mine.yaml", []
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(text, encoding=encoding)
        read.append(load.read(file))
    assert read[0].question == "Café?" and read == read[:1] * 3
    file.write_text(text, encoding="cp1252")
    with pytest.raises(UserError, match=r"mine.yaml:2 .*UTF-8: 'question: Café\?'") as caught:
        load.read(file)
    assert "iconv -f WINDOWS-1252" in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_that_is_too_large_is_named_as_such(encoding: str, tmp_path: Path):
    """The read ends within a character of two bytes."""
    file = tmp_path / "large.yaml"
    file.write_text("a: 1 #" + MAX_BYTES * "é", encoding=encoding)
    with pytest.raises(BadYamlError, match="more than 2 MB"):
        read_yaml(file)


def test_ordinary_aliases_are_read():
    document = parse_yaml("base: &b {lr: 0.1}\nruns: [*b, *b]\nmore: {<<: *b, wd: 1}\n")
    assert document["runs"][1]["lr"] == 0.1 and document["more"]["lr"] == 0.1
    with pytest.raises(BadYamlError, match="more than 200,000 values"):
        parse_yaml(LAUGHS)
