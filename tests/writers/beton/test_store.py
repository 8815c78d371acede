"""Damage in tables is found on opening; `verify` finds all damage."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.helpers.reseal import reseal
from writers.beton.encoding import JPEG, Encoding
from writers.beton.layout import FIRST_ROW
from writers.beton.store import Manifest, manifest_path, open_beton, read_manifest
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything


@pytest.fixture
def beton(source: Source, tmp_path: Path) -> Path:
    write_split(
        source,
        "train",
        everything(source.classes),
        Encoding(format="mixed", compress_probability=0.7),
        tmp_path / "train.beton",
    )
    return tmp_path / "train.beton"


def test_an_intact_beton_opens_and_verifies(beton: Path):
    seen = []
    assert verify(beton, lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (15, 15)
    assert np.bincount(open_beton(str(beton)).labels).tolist() == [5, 5, 5]


def test_any_flipped_byte_is_found(beton: Path):
    whole = beton.read_bytes()
    rng = np.random.default_rng(0)
    manifest = json.loads(manifest_path(beton).read_text())
    places = [0, 5, 9, 30, *rng.integers(0, manifest["bytes"], 8)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        beton.write_bytes(damaged)
        assert verify(beton) != [], f"byte {place}"
    beton.write_bytes(whole)
    assert verify(beton) == []


def test_every_damaged_byte_of_header_rows_and_table_is_a_user_error(beton: Path):
    """Includes the top bit of numbers, which must not be read as a size or offset."""
    whole = beton.read_bytes()
    table_offset = open_beton(beton).manifest.table_offset
    places = [
        *range(24),
        *range(24, 24 + 17),
        *range(FIRST_ROW, FIRST_ROW + 24),
        *range(table_offset, table_offset + 24),
    ]
    for place in places:
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            beton.write_bytes(damaged)
            assert verify(beton) != [], f"byte {place} bit {bit}"
            with pytest.raises(UserError, match="not the file that its manifest describes"):
                open_beton(beton)


@pytest.mark.parametrize("keep", [0, 10, 3000, -1])
def test_a_truncated_file_does_not_open(beton: Path, keep: int):
    beton.write_bytes(beton.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train\.beton"):
        open_beton(beton)
    assert verify(beton) != []


def test_the_manifest_of_another_file_is_refused(source: Source, beton: Path, tmp_path: Path):
    write_split(
        source, "val", everything(source.classes), Encoding(format="raw"), tmp_path / "val.beton"
    )
    manifest_path(tmp_path / "val.beton").replace(manifest_path(beton))
    with pytest.raises(UserError, match="not the file that its manifest describes"):
        open_beton(beton)


def test_a_missing_file_and_a_missing_or_invalid_manifest_are_refused(beton: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no beton"):
        open_beton(tmp_path / "other.beton")
    with pytest.raises(UserError, match="is a folder, not a beton") as caught:
        read_manifest(beton.parent)
    assert caught.value.hint == f"Use {beton}."
    with pytest.raises(UserError, match="is a folder, not a beton"):
        (tmp_path / "photos").mkdir()
        read_manifest(tmp_path / "photos")
    manifest = json.loads(manifest_path(beton).read_text())
    for wrong in ({}, manifest | {"num_raw": 16}, [], "words"):
        manifest_path(beton).write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="not a beton's manifest"):
            open_beton(beton)
    manifest_path(beton).unlink()
    with pytest.raises(UserError, match="no manifest"):
        open_beton(beton)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_counts": [5, 5, 4]}, "its counts do not add up"),
        ({"class_counts": [15]}, "its counts do not add up"),
        ({"num_raw": 16}, "its counts do not add up"),
        ({"num_samples": 10**12}, "its counts do not add up"),
        ({"bytes": 100}, "its file is too small for its samples"),
        ({"has_boxes": True}, "it has boxes, but one label per image"),
        ({"bytes": 2**30, "sha256": "0" * 64}, "its digests do not match"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_although_its_digest_matches(
    beton: Path, changes: dict[str, object], words: str
):
    fields = {name: value for name, value in open_beton(beton).manifest if name != "digest"}
    assert Manifest.sealed(**fields) == open_beton(beton).manifest
    with pytest.raises(ValidationError, match=words):
        Manifest.sealed(**fields | changes)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("label", 7, "label 7"),
        ("label", -1, "label -1"),
        ("width", 1, "sample 3"),
        ("mode", 9, "sample 3"),
        ("offset", 1, "does not match"),
    ],
)
def test_a_wrong_row_is_named_although_the_digest_matches(
    beton: Path, field: str, value: int, words: str
):
    opened = open_beton(beton)
    rows = opened.rows.copy()
    rows[field][3] = value
    data = beton.read_bytes()
    first = data.index(opened.rows.tobytes())
    beton.write_bytes(data[:first] + rows.tobytes() + data[first + rows.nbytes :])
    reseal(beton)
    problems = verify(beton)
    assert any(words in problem for problem in problems), problems


def test_a_truncated_jpeg_is_named_although_the_digest_matches(
    beton: Path,
):
    opened = open_beton(beton)
    number = int(np.flatnonzero(opened.rows["mode"] == JPEG)[1])
    ends = sorted([*opened.rows["offset"].tolist(), opened.manifest.table_offset])
    start = int(opened.rows["offset"][number])
    middle, end = start + 700, ends[ends.index(start) + 1]
    data = beton.read_bytes()
    beton.write_bytes(data[:middle] + bytes(end - middle) + data[end:])
    reseal(beton)
    [problem] = verify(beton)
    assert problem.startswith(
        f"sample {number} (label {opened.labels[number]}): its JPEG does not decode"
    )
