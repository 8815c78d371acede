"""`.beton` files of `dct` blobs are written, copied, verified and loaded; stock FFCV refuses them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.cli.commands.write_beton import command as write_beton
from loaders import kernel as loader_kernel
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.pictures import picture
from writers.beton.convert import to_dct, to_jpeg
from writers.beton.encode import encode
from writers.beton.encoding import DCT, JPEG, RAW, Encoding
from writers.beton.layout import FIELD, HEADER
from writers.beton.store import Manifest, manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dct import blob as dct
from writers.errors import UserError
from writers.jpeg import native as kernel
from writers.source import Source
from writers.subset.spec import everything

pytestmark = pytest.mark.skipif(
    kernel.library() is None, reason="the package's C parts were not built"
)


def written(source: Source, path: Path, **settings: object) -> Manifest:
    return write_split(source, "train", everything(source.classes), Encoding(**settings), path)


def batches(path: Path, **changes: object) -> torch.Tensor:
    plan = LoaderPlan(
        path, 4, 32, augment="random_resized_crop", horizontal_flip=True, order="random", **changes
    )
    with open_loader(plan) as loader:
        return torch.cat([images.clone() for images, _ in loader.epoch(2)])


@pytest.fixture
def mixed_source(tree: Path, source: Source) -> Source:
    """Make a source with an image that cannot be a blob, a small non-JPEG, a progressive JPEG."""
    picture(900, 120, 90).convert("CMYK").save(tree / "train" / "cat" / "train_0.jpg")
    narrow = picture(901, 7, 90)
    narrow.save(tree / "train" / "dog" / "train_0.jpg")
    picture(902, 30, 20).save(tree / "train" / "dog" / "train_3.png")
    picture(903, 150, 110).save(tree / "train" / "owl" / "train_0.jpg", progressive=True)
    return source


def test_the_manifest_counts_each_kind_and_all_of_it_verifies(mixed_source, tmp_path):
    path = tmp_path / "dct.beton"
    manifest = written(mixed_source, path, format="dct")
    modes = open_beton(path).rows["mode"]
    assert manifest.num_dct == (modes == DCT).sum() == 13  # CMYK is decoded and encoded again
    assert (manifest.num_jpeg, manifest.num_raw) == (1, 1)
    assert (modes == JPEG).sum() == (modes == RAW).sum() == 1
    assert verify(path) == []


@pytest.mark.parametrize("backend", ["ffcv", "resident", "reference"])
def test_a_loader_gives_the_pixels_of_the_jpegs(mixed_source, tmp_path, backend):
    written(mixed_source, tmp_path / "jpeg.beton", format="passthrough")
    written(mixed_source, tmp_path / "dct.beton", format="dct")
    expected = batches(tmp_path / "jpeg.beton")
    found = batches(tmp_path / "dct.beton", backend=backend)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("settings", [{}, {"max_resolution": 100}, {"jpeg_quality": 50}])
def test_other_sizes_have_the_coefficients_of_the_jpeg_that_would_be_written(
    mixed_source, tmp_path, settings
):
    data = (Path(__file__).parent / "x").name.encode()  # no image: refused as for every format
    with pytest.raises(Exception, match=r"image|know"):
        encode(data, Encoding(format="dct", **settings))
    image = picture(904, 200, 160)
    image.save(tmp_path / "one.jpg", quality=95)
    image.save(tmp_path / "one.png")
    for name in ("one.jpg", "one.png"):
        data = (tmp_path / name).read_bytes()
        stored = encode(data, Encoding(format="dct", **settings))
        assert stored.mode == DCT
        if name == "one.jpg" and "max_resolution" not in settings:
            assert stored.data == dct.from_jpeg(data)  # unchanged, for any quality
        else:
            plain = encode(data, Encoding(format="jpeg", restart_index=False, **settings))
            assert stored.data == dct.from_jpeg(plain.data)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_converting_a_beton_gives_what_writing_it_gives(mixed_source, tmp_path, num_threads):
    written(mixed_source, tmp_path / "jpeg.beton", format="passthrough")
    written(mixed_source, tmp_path / "own.beton", format="dct")
    manifest = to_dct(tmp_path / "jpeg.beton", tmp_path / "new.beton", num_threads=num_threads)
    assert (tmp_path / "new.beton").read_bytes() == (tmp_path / "own.beton").read_bytes()
    assert manifest.encoding == Encoding(format="dct") and verify(tmp_path / "new.beton") == []
    with pytest.raises(UserError, match="is the input file"):
        to_dct(tmp_path / "jpeg.beton", tmp_path / "jpeg.beton")
    with pytest.raises(UserError, match="no JPEG"):
        written(mixed_source, tmp_path / "raw.beton", format="raw")
        to_dct(tmp_path / "raw.beton", tmp_path / "new.beton")


def test_coefficients_become_jpegs_of_the_same_pixels(mixed_source, tmp_path):
    written(mixed_source, tmp_path / "dct.beton", format="dct")
    manifest = to_jpeg(tmp_path / "dct.beton", tmp_path / "jpeg.beton", num_threads=2)
    assert manifest.num_dct == 0 and verify(tmp_path / "jpeg.beton") == []
    assert manifest.encoding == Encoding(format="passthrough", restart_index=True)
    old, new = (open_beton(tmp_path / name) for name in ("dct.beton", "jpeg.beton"))
    assert (old.ids == new.ids).all() and (old.labels == new.labels).all()
    assert torch.equal(batches(old.path), batches(new.path))
    with pytest.raises(UserError, match="has no coefficients"):
        to_jpeg(tmp_path / "jpeg.beton", tmp_path / "again.beton")


def test_the_command_writes_and_converts(tree, tmp_path):
    from click.testing import CliRunner

    for options in (
        ["--source", str(tree), "--format", "dct", "--out", str(tmp_path / "own")],
        ["--source", str(tree), "--passthrough", "--out", str(tmp_path / "jpeg")],
        ["--from", str(tmp_path / "jpeg"), "--format", "dct", "--out", str(tmp_path / "new")],
    ):
        ended = CliRunner().invoke(write_beton, [*options, "--json"], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
    manifests = json.loads(ended.stdout)
    assert [one["num_dct"] for one in manifests] == [15, 6]
    options = ["--from", str(tmp_path / "new"), "--format", "passthrough"]
    options += ["--out", str(tmp_path / "back"), "--json"]
    ended = CliRunner().invoke(write_beton, options, catch_exceptions=False)
    assert [one["num_dct"] for one in json.loads(ended.stdout)] == [0, 0]
    own, new = (tmp_path / name / "train.beton" for name in ("own", "new"))
    assert own.read_bytes() == new.read_bytes()


def test_every_changed_byte_of_a_blob_is_found(mixed_source, tmp_path):
    path = tmp_path / "dct.beton"
    written(mixed_source, path, format="dct")
    beton = open_beton(path)
    number = int(np.flatnonzero(beton.rows["mode"] == DCT)[3])
    offset, size = int(beton.rows["offset"][number]), int(beton.sizes[number])
    whole = path.read_bytes()
    for place in (0, 12, 25, size // 2, size - 1):
        spoilt = bytearray(whole)
        spoilt[offset + place] ^= 0x10
        path.write_bytes(spoilt)
        (problem,) = [line for line in verify(path) if line.startswith("sample")]
        assert problem.startswith(f"sample {number} ") and "its bytes have changed" in problem


def test_a_damaged_blob_is_an_error_or_left_out(mixed_source, tmp_path):
    path = tmp_path / "dct.beton"
    written(mixed_source, path, format="dct")
    beton = open_beton(path)
    number = int(np.flatnonzero(beton.rows["mode"] == DCT)[3])
    data = bytearray(path.read_bytes())
    data[int(beton.rows["offset"][number]) + 21] ^= 1  # a table
    path.write_bytes(data)
    for backend in ("ffcv", "reference"):
        with pytest.raises(UserError, match=f"Sample {number} of .* does not decode"):
            batches(path, backend=backend)
        assert len(batches(path, backend=backend, on_corrupt="skip")) == 14


def test_without_the_c_kernel_it_is_refused_with_the_reason(mixed_source, tmp_path, monkeypatch):
    written(mixed_source, tmp_path / "dct.beton", format="dct")
    monkeypatch.setattr(loader_kernel, "best_kernel", lambda: "numba")
    with pytest.raises(UserError, match="has dct images, which only the C kernel decodes"):
        batches(tmp_path / "dct.beton")


def test_stock_ffcv_refuses_it(mixed_source, tmp_path):
    from ffcv.reader import Reader

    written(mixed_source, tmp_path / "dct.beton", format="dct")
    with pytest.raises(ValueError, match="custom field"):
        Reader(str(tmp_path / "dct.beton"))
    # Stock FFCV can read a file in which no image is stored as a blob.
    for image in (tmp_path / "tree" / "train").glob("*/*"):
        Image.new("RGB", (7, 120)).save(image, "PNG" if image.suffix == ".png" else "JPEG")
    manifest = written(mixed_source, tmp_path / "none.beton", format="dct")
    assert manifest.num_dct == 0
    assert Reader(str(tmp_path / "none.beton")).num_samples == 15


def test_manifests_from_before_there_were_blobs_still_open(source, tmp_path):
    path = tmp_path / "jpeg.beton"
    written(source, path, format="passthrough")
    stored = json.loads(manifest_path(path).read_text())
    del stored["num_dct"]
    manifest_path(path).write_text(json.dumps(stored))
    assert open_beton(path).manifest.num_dct == 0
    stored["num_dct"] = 1
    manifest_path(path).write_text(json.dumps(stored))
    with pytest.raises(UserError, match="it was changed after it was written"):
        open_beton(path)
    fields = np.fromfile(path, FIELD, 1, offset=HEADER.itemsize)
    assert fields["type"][0] == 2
