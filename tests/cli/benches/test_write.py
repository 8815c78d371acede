"""`harness bench write` on a few images: contenders, record, and no files left over."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.benches._checkout import ROOT
from harness.cli.benches._write_rounds import ENCODINGS, WriteRounds
from harness.cli.benches.write import WHEN
from harness.cli.main import cli
from writers.beton.store import open_beton
from writers.beton.verify import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus" / "photos"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(noise.integers(0, 256, (90, 430, 3), dtype=np.uint8)).save(
            folder / f"{index}.jpg"
        )
    return folder.parent


def test_the_record_and_the_tables(corpus: Path, tmp_path: Path):
    arguments = [
        "bench",
        "write",
        "--corpus",
        str(corpus),
        "--against",
        "none",
        "--rounds",
        "2",
        "--copies",
        "2",
        "--threads",
        "1",
        "--scratch",
        str(tmp_path / "scratch"),
        "--json",
        str(tmp_path / "record.json"),
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads((tmp_path / "record.json").read_text())
    written = set(ENCODINGS) - set(record["absent"])
    assert len(written) >= 7
    assert set(record["contenders"]) == {f"ours:{name}" for name in written} | {
        "copy:0.9",
        "copy:0.5",
        "cp",
        "cp:durable",
    }
    assert all(
        len(row["rates"]) == len(row["details"]) == 2 for row in record["contenders"].values()
    )
    assert record["work"]["num_images"] == 12 and record["environment"]["cpu"]
    assert {ratio["ours"] for ratio in record["ratios"]} == {"copy:0.9", "copy:0.5"}
    assert record["encodings"]["passthrough"]["of_source"] == 1
    assert record["encodings"]["raw"]["bytes_per_image"] == 90 * 430 * 3
    assert record["encodings"]["raw400"]["bytes_per_image"] == 84 * 400 * 3
    assert record["work"]["corpus"] == {"from": "corpus"}
    assert all(f"| `{name}` |" in result.stdout for name in written) and set(WHEN) == set(ENCODINGS)
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == [
        "corpus",
        "large.beton",
        "large.beton.json",
    ]


def test_stock_ffcvs_writer_is_timed_and_the_beton_to_copy_from_is_valid(
    corpus: Path, tmp_path: Path
):
    work = WriteRounds(corpus, tmp_path, 1, 2)
    detail = work.round("ffcv:jpeg400")
    assert detail["img_per_s"] > 0 and detail["bytes"] > 10_000
    work.warm_up()
    assert verify(tmp_path / "large.beton") == []
    assert open_beton(tmp_path / "large.beton").manifest.class_counts == [
        3,
        3,
        3,
        3,
        2,
        2,
        2,
        2,
        2,
        2,
    ]


@pytest.mark.skipif(
    not (ROOT / "benchmarks" / "photo_tiles.py").is_file(),
    reason="benchmarks/ is not part of the package",
)
def test_generated_tiles_have_the_right_size(monkeypatch: pytest.MonkeyPatch):
    from benchmarks.photo_tiles import MAX_BYTES, MIN_BYTES, made_up

    tiles = [made_up(seed) for seed in (0, 1, 2)]
    assert tiles[1] == made_up(1) and len(set(tiles)) == 3
    for tile in tiles:
        assert MIN_BYTES <= len(tile) <= MAX_BYTES
        assert Image.open(io.BytesIO(tile)).size == (500, 375)
