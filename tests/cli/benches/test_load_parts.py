"""`harness bench load --parts`, `--scaling`, `--subsampling`, and workloads of whole images.

`--parts` times the parts of decoding: entropy decoding, inverse transform, color and resizing.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.benches import load
from harness.cli.benches._corpus import link_corpus, recode_corpus
from harness.cli.main import cli
from loaders import kernel_c
from loaders.crops import choose_crops
from loaders.plan import LoaderPlan
from tests.helpers import ROOT
from tests.helpers.tiny_betons import jpeg, photo
from writers.beton.encoding import DCT, JPEG, RAW
from writers.dct.blob import from_jpeg
from writers.errors import UserError
from writers.jpeg.restart_index import add_restart_index

needs_c = pytest.mark.skipif(kernel_c.library() is None, reason="the C kernel was not built")
needs_checkout = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "contender.py").is_file(),
    reason="benchmarks/ is not part of the package",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(jpeg(photo(160 + number, 120, seed=number)))
    return folder


def run(corpus: Path, *options: str) -> tuple[str, dict]:
    """Run `harness bench load` on the corpus; return its output and its JSON record."""
    data = corpus.parent / "data"
    arguments = ["bench", "load", "--corpus", str(corpus), "--data-dir", str(data)]
    arguments += ["--batch-size", "4", "--json", str(corpus.parent / "x.json"), *options]
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output, json.loads((corpus.parent / "x.json").read_text())


@needs_c
@needs_checkout
def test_parts_of_each_form_and_instruction_set(corpus):
    output, record = run(corpus, "--parts")
    rows = {(row["form"], row["instructions"]): row for row in record["parts"]}
    names = set(kernel_c.instruction_sets()) - {"libjpeg-turbo"}
    assert set(rows) == {
        (form, name) for form in ("dct", "indexed JPEG", "raw at 400 px") for name in names
    }
    for (form, _), row in rows.items():
        assert (row["entropy"] > 0) == (form == "indexed JPEG")
        assert min(row["transform"], row["color"], row["resize"], row["whole"]) > 0
    views = {(row["form"], row["instructions"]): row["views"] for row in record["views"]}
    assert set(views) == {
        (form, name) for form in ("dct", "indexed JPEG") for name in names - {"scalar"}
    }
    assert all(len(row) == 3 and row[0] > 0 for row in views.values())
    assert record["gil_ms"]["call"] > 0 and "for a batch of 4" in " ".join(output.split())


@needs_c
@pytest.mark.parametrize("mode", [JPEG, DCT, RAW])
def test_parts_run_one_after_another_equal_the_whole_kernel(mode):
    pixels = photo(150, 110, seed=3)
    blob = jpeg(pixels)
    stored = {JPEG: add_restart_index(blob), DCT: from_jpeg(blob), RAW: pixels.tobytes()}[mode]
    file = np.frombuffer(stored + bytes(512), np.uint8)
    columns = (np.array([x]) for x in (0, len(stored), mode, 150, 110))
    images = kernel_c.stored_images(file, *columns)
    box, flip = np.array([[13, 7, 101, 90]]), np.array([True])
    for name in sorted(set(kernel_c.instruction_sets()) - {"libjpeg-turbo"}):
        outputs = np.zeros((2, 1, 48, 48, 3), np.uint8)
        kernel_c.time_parts(images, box, flip, outputs[0], name)
        kernel_c.Pool(1, name).make_batch(
            images,
            np.arange(1),
            box,
            flip,
            outputs[1],
            np.zeros(1, np.uint8),
            np.empty((0, 256), np.float16),
        )
        assert outputs[0].std() > 10 and np.array_equal(outputs[0], outputs[1])


@needs_c
def test_parts_of_a_jpeg_without_a_restart_index_are_refused():
    blob = jpeg(photo(50, 40, seed=3))
    file = np.frombuffer(blob + bytes(512), np.uint8)
    columns = (np.array([x]) for x in (0, len(blob), JPEG, 50, 40))
    images = kernel_c.stored_images(file, *columns)
    with pytest.raises(ValueError, match="without a restart index"):
        kernel_c.time_parts(
            images,
            np.array([[0, 0, 50, 40]]),
            np.array([False]),
            np.zeros((1, 8, 8, 3), np.uint8),
            "scalar",
        )


@needs_checkout
def test_scaling_has_a_row_for_each_number_of_threads(corpus, monkeypatch):
    monkeypatch.setattr("harness.system.environment.num_cores", lambda: 2)
    options = ["--ours", "ours:jpeg", "--rounds", "1", "--images", "10", "--scaling"]
    _, record = run(corpus, *options)
    assert [(row["name"], row["threads"]) for row in record["rows"]] == [
        ("ours:jpeg", 1),
        ("ours:jpeg", 2),
    ]
    assert all(len(row["rates"]) == 1 and row["median"] > 0 for row in record["rows"])


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", (1, 1)), ("4:2:0", (2, 2))])
def test_images_are_encoded_again_with_another_subsampling(corpus, tmp_path, subsampling, factors):
    """The copies have the same names and almost the same pixels, and are written only once."""
    photos = link_corpus(corpus, tmp_path / "scratch")
    copy = recode_corpus(photos, subsampling)
    files = sorted(path.relative_to(copy) for path in copy.rglob("*.jpg"))
    assert files == sorted(path.relative_to(photos) for path in photos.rglob("*.jpg"))
    for path in files:
        with Image.open(copy / path) as new, Image.open(photos / path) as old:
            assert new.layer[0][1:3] == factors and new.size == old.size
            assert np.abs(np.asarray(new, int) - np.asarray(old, int)).mean() < 8
    times = [path.stat().st_mtime_ns for path in sorted(copy.rglob("*.jpg"))]
    recode_corpus(photos, subsampling)
    assert times == [path.stat().st_mtime_ns for path in sorted(copy.rglob("*.jpg"))]


def test_crops_of_the_workload_whole_are_whole_images():

    plan = LoaderPlan(Path("x"), 4, 224, augment="random_resized_crop", **load.WORKLOADS["whole"])
    widths, heights = np.array([500, 375, 512]), np.array([375, 500, 512])
    crops = choose_crops(plan, 0, np.arange(3, dtype=np.uint64), widths, heights)
    assert (crops.boxes == [[0, 0, 500, 375], [0, 0, 375, 500], [0, 0, 512, 512]]).all()


@needs_checkout
def test_whole_images_with_boxes_are_compared_with_classification(corpus, tmp_path, monkeypatch):
    """Loaders for detection and for classification are timed on the same whole images."""
    from benchmarks import load_whole
    from benchmarks.contender import Work
    from harness.cli.benches import _load_whole

    monkeypatch.setattr(load_whole, "NUM_ROUNDS", 2)
    monkeypatch.setattr(load_whole, "MIN_ROUND_S", 0.05)
    monkeypatch.setattr(load_whole, "FORMS", {"dct": "dct", "jpeg": "plain"})
    photos = link_corpus(corpus, tmp_path / "scratch")
    work = {"corpus": str(photos), "scratch": str(tmp_path / "converted"), "resolution": 32}
    rows = load_whole.measure(Work(**work))
    assert [row.form for row in rows] == list(load_whole.FORMS.values())
    assert all(len(row.classification) == len(row.detection) == 2 for row in rows)
    assert min(min(row.classification + row.detection) for row in rows) > 0
    plan = LoaderPlan(Path("x"), 4, 8, augment="random_resized_crop", **load_whole.WHOLE)
    widths, heights = np.array([500, 100, 30]), np.array([375, 400, 60])
    crops = choose_crops(plan, 0, np.arange(3, dtype=np.uint64), widths, heights)
    assert (crops.boxes[:, 2] * crops.boxes[:, 3] >= 0.97 * widths * heights).all()
    with pytest.raises(UserError, match="Whole images cannot be measured"):
        _load_whole.measure_whole(work | {"corpus": str(tmp_path / "none")})
