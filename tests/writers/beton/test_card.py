"""Dataset cards: all numbers agree with the files, and names are text, never markup."""

import hashlib
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.commands.card import command
from tests.helpers.tiny_betons import photo, write_beton
from writers.beton import card as cards
from writers.beton.store import Manifest, manifest_path, read_manifest
from writers.dataset import spec_of
from writers.errors import UserError


def beton(path: Path, labels: list[int], classes: list[str] | None = None) -> Path:
    images = [photo(20 + number, 16, seed=number) for number in range(len(labels))]
    return write_beton(
        path,
        images,
        labels,
        raw=[number % 2 == 0 for number in range(len(labels))],
        classes=classes,
    )


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Return the unescaped cells of the table under a heading, without its header."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines[2:]]
    return [[re.sub(r"\\(.)", r"\1", cell) for cell in row] for row in cells]


def changed(manifest: Manifest, **fields: object) -> Manifest:
    values = {name: value for name, value in manifest if name != "digest"} | fields
    return Manifest.sealed(**values)


def test_numbers_are_those_of_the_files(tmp_path):
    train = beton(tmp_path / "train.beton", [0, 0, 0, 1, 1, 2], ["cat", "dog", "owl"])
    val = beton(tmp_path / "val.beton", [0, 1, 1], ["cat", "dog", "owl"])
    manifests = [(train, read_manifest(train)), (val, changed(read_manifest(val), split="val"))]
    text = cards.card(manifests)
    for (file, manifest), row in zip(manifests, rows_of(text, "Files"), strict=True):
        content = file.read_bytes()
        assert row[:2] == [file.name, manifest.split]
        assert row[4] == f"{len(content):,}"
        assert row[5] == hashlib.sha256(content).hexdigest()
    assert [row[2:4] for row in rows_of(text, "Files")] == [["6", "3"], ["3", "2"]]
    assert rows_of(text, "Images per class") == [["train", "1", "2", "3"], ["val", "1", "1.5", "2"]]
    assert rows_of(text, "Classes in label order") == [
        ["0", "cat", "3", "1"],
        ["1", "dog", "2", "2"],
        ["2", "owl", "1", "0"],
    ]
    content = dict(rows_of(text, "Content"))
    assert content["stored as"] == "4 JPEG, 5 raw"
    assert content["largest sides"] == "25 x 16 px"


def test_names_are_text_and_stay_on_their_lines(tmp_path):
    names = ["a|b", "line\nbreak", "<script>", "`code`", "*bold*", "_x_", "[link](there)", "in_900"]
    file = beton(tmp_path / "train.beton", list(range(8)), names)
    text = cards.card([(file, changed(read_manifest(file), source="my|photos\n# Title"))])
    shown = [row[1] for row in rows_of(text, "Classes in label order")]
    assert shown == ["a|b", "line\\nbreak", *names[2:]]
    assert "<script>" not in text
    assert "\n# Title" not in text
    assert "| in_900 |" in text, "no needless escapes"


def test_many_classes_are_folded(tmp_path):
    names = [f"class {number}" for number in range(cards.MAX_CLASSES + 1)]
    file = beton(tmp_path / "train.beton", list(range(len(names))), names)
    text = cards.card([(file, read_manifest(file))])
    assert "<details><summary>51 classes</summary>" in text
    assert len(rows_of(text, "Classes in label order")) == 51


@pytest.mark.parametrize("dataset", ["pets", "synthetic_things", "folder", "no_such_dataset"])
def test_license_notes_are_those_of_the_dataset(tmp_path, dataset):
    file = beton(tmp_path / "train.beton", [0, 1])
    text = cards.card([(file, changed(read_manifest(file), dataset=dataset))])
    notes = text.split("## License notes\n")[1].split("\n## ")[0]
    if dataset == "pets":
        assert spec_of("pets").license in notes
        assert spec_of("pets").citation in text
    elif dataset == "synthetic_things":
        assert "generated" in notes
    else:
        assert "not recorded" in notes


def test_what_was_left_out_is_listed(tmp_path):
    file = beton(tmp_path / "train.beton", [0, 1])
    manifest = read_manifest(file)
    assert "What is not in it" not in cards.card([(file, manifest)])
    more = changed(
        manifest,
        skipped=[{"name": "a.jpg", "class": "class0", "reason": "cut short"}],
        omitted=[{"reason": "flat splits", "count": 1200, "names": ["x.jpg"]}],
        differences=["train has 2 images; 3 were published"],
    )
    text = cards.card([(file, more)])
    section = text.split("## What is not in it\n")[1].split("\n## ")[0]
    assert "1 damaged images were left out" in section
    assert "1,200 not read: flat splits" in section
    assert "3 were published" in section


def test_files_of_different_datasets_have_no_common_card(tmp_path):
    one = beton(tmp_path / "one.beton", [0, 1], ["cat", "dog"])
    other = beton(tmp_path / "other.beton", [0, 1], ["cat", "owl"])
    with pytest.raises(UserError, match="classes differ"):
        cards.card([(path, read_manifest(path)) for path in (one, other)])


def test_the_command_prints_or_writes_the_card_with_train_first(tmp_path):
    val = beton(tmp_path / "val.beton", [0, 1])
    manifest_path(val).write_text(changed(read_manifest(val), split="val").model_dump_json())
    train = beton(tmp_path / "train.beton", [0, 1, 1])
    printed = CliRunner().invoke(command, [str(val), str(train)], catch_exceptions=False)
    assert printed.output.startswith("# ")
    target = tmp_path / "README.md"
    written = CliRunner().invoke(
        command, [str(train), str(val), "--out", str(target)], catch_exceptions=False
    )
    assert written.exit_code == 0
    assert target.read_text() == printed.output
    assert [row[1] for row in rows_of(printed.output, "Files")] == ["train", "val"]
