"""`.beton` files that stock FFCV wrote get a manifest, and can then be used like other betons."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo
from writers.beton.adopt import adopt
from writers.beton.encoding import Encoding
from writers.beton.layout import FIRST_ROW, HEADER
from writers.beton.store import manifest_path, open_beton, samples_path
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.subset.spec import everything

NUM_SAMPLES = 30


class Images:
    """A dataset for FFCV's writer: items by index."""

    def __init__(self, label: object = None) -> None:
        self.label = label

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, number: int) -> tuple:
        sides = 100 + number % 5, 80 + number % 7
        label = number % 3 if self.label is None else self.label
        return photo(*sides, seed=number if number != 7 else 4), label


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """Write a beton as ffcv-imagenet does: half JPEG, half raw."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    path = tmp_path_factory.mktemp("ffcv") / "train_500_0.50_90.ffcv"
    image = RGBImageField(
        write_mode="proportion", max_resolution=500, compress_probability=0.5, jpeg_quality=90
    )
    fields = {"image": image, "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Images())
    return path


@pytest.fixture
def beton(stock: Path, tmp_path: Path) -> Path:
    path = tmp_path / stock.name
    path.write_bytes(stock.read_bytes())
    return path


def test_an_adopted_beton_loads_verifies_and_is_unchanged(beton: Path, tmp_path: Path):
    before = hashlib.sha256(beton.read_bytes()).hexdigest()
    manifest = adopt(beton, split="train", name="mine", classes=["a", "b", "c"], num_threads=2)
    assert hashlib.sha256(beton.read_bytes()).hexdigest() == before == manifest.sha256
    assert manifest.class_counts == [10, 10, 10] and manifest.num_samples == NUM_SAMPLES
    assert 0 < manifest.num_jpeg < NUM_SAMPLES
    assert verify(beton, num_threads=2) == []
    opened = open_beton(beton)
    assert len(np.unique(opened.ids)) == NUM_SAMPLES
    with open_loader(LoaderPlan(beton, batch_size=10, resolution=64)) as loader:
        labels = [label for batch in loader.epoch(0) for label in batch[1].tolist()]
    assert sorted(labels) == sorted([0, 1, 2] * 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (beton, manifest_path(beton), samples_path(beton))
    )


def test_ids_do_not_depend_on_the_order_in_the_file(beton: Path):
    adopt(beton, split="train", name="mine")
    opened = open_beton(beton)
    images = {row.tobytes(): opened.ids[number] for number, row in enumerate(opened.digests)}
    assert len(set(images.values())) == len(images)


def test_every_damage_is_found(beton: Path):
    adopt(beton, split="train", name="mine")
    whole, opened = beton.read_bytes(), open_beton(beton)
    offset = int(opened.rows["offset"][5]) + 30
    beton.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
    assert any("sample 5" in problem for problem in verify(beton))
    for place in (FIRST_ROW + 17, len(whole) - 10):  # a label, and FFCV's allocation table
        beton.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="its tables differ"):
            open_beton(beton)
    beton.write_bytes(whole)
    samples = samples_path(beton).read_bytes()
    samples_path(beton).write_bytes(samples[:-1])
    with pytest.raises(UserError, match="its tables differ"):
        open_beton(beton)
    samples_path(beton).unlink()
    with pytest.raises(UserError, match="which `harness adopt-beton` wrote"):
        open_beton(beton)


def test_the_command_serves_read_only_folders(beton: Path, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nemu\n")
    out = tmp_path / "out"
    arguments = ["adopt-beton", str(beton), "--classes", str(names), "--name", "x/../y"]
    ended = CliRunner().invoke(cli, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert ended.exit_code == 0 and "30 images, 3 classes" in ended.output
    assert (out / "train.beton").is_symlink() and not manifest_path(beton).exists()
    assert open_beton(out / "train.beton").manifest.classes == ["cat", "dog", "emu"]
    assert "/" not in open_beton(out / "train.beton").manifest.name
    assert verify(out / "train.beton") == []
    with pytest.raises(UserError, match="has a manifest already"):
        CliRunner().invoke(cli, [*arguments, "--out", str(out)], catch_exceptions=False)
    copied = ["write-beton", "--from", str(out), "--subset", "all", "--out", str(tmp_path / "c")]
    assert CliRunner().invoke(cli, copied, catch_exceptions=False).exit_code == 0
    assert verify(tmp_path / "c" / "train.beton") == []
    assert not open_beton(tmp_path / "c" / "train.beton").manifest.adopted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(beton: Path):
    beton.parent.chmod(0o555)
    with pytest.raises(UserError, match="cannot be written") as caught:
        adopt(beton, split="train", name="mine")
    assert "--out" in caught.value.hint


@pytest.mark.parametrize("format_", ["passthrough", "dct", "raw"])
def test_an_adopted_beton_is_a_dataset(beton: Path, tmp_path: Path, format_: str):
    adopt(beton, split="train", name="mine", classes=["a", "b", "c"])
    source = open_dataset("beton", beton, SplitSettings(val=0.2))
    assert len(source.splits["val"]) == 6 and len(source.splits["train"]) == 24
    file = tmp_path / "again" / "train.beton"
    write_split(source, "train", everything(source.classes), Encoding(format=format_), file)
    assert verify(file) == []
    again = open_dataset("beton", file.parent, SplitSettings(val=0.0))
    assert again.classes == ["a", "b", "c"] and len(again.splits["train"]) == 24
    if format_ == "passthrough":
        read = [source.read(example) for example in source.splits["train"]]
        jpegs = [content for content in read if content.startswith(b"\xff\xd8")]
        assert 0 < len(jpegs) < 24 and all(jpeg in file.read_bytes() for jpeg in jpegs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1000], "too short"),
        (lambda data: data[:-1], "do not fit"),
        (lambda data: b"\x03" + data[1:], "its version is 3"),
        (lambda data: data[:8] + bytes(8) + data[16:], "no sample"),
        (lambda data: data[:16] + bytes(8) + data[24:], "did not complete"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "do not fit"),
        (lambda data: data[: FIRST_ROW + 16] + b"\xff" * 8 + data[FIRST_ROW + 24 :], "its labels"),
        (lambda data: data[: FIRST_ROW + 5] + b"\xff" * 8 + data[FIRST_ROW + 13 :], "match sample"),
        (lambda data: data[:FIRST_ROW] + b"\x07" + data[FIRST_ROW + 1 :], "match sample"),
        (lambda data: data[:-8] + b"\xff" * 8, "match sample"),
        (lambda data: b"", "too short"),
    ],
)
def test_other_files_are_refused_in_one_line(beton: Path, change, message: str):
    beton.write_bytes(change(beton.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        adopt(beton, split="train", name="mine")
    assert "\n" not in caught.value.message and not manifest_path(beton).exists()


def test_mutated_tables_never_end_in_a_traceback(beton: Path):
    whole, draws = beton.read_bytes(), np.random.default_rng(3)
    table = int(np.frombuffer(whole, HEADER, 1)["table_offset"][0])
    places = [*range(24), *range(FIRST_ROW, FIRST_ROW + 720), *range(table, len(whole))]
    num_refused = 0
    for _ in range(100):
        data = bytearray(whole)
        for place in draws.choice(places, int(draws.integers(1, 4))):
            data[place] = int(draws.integers(256))
        beton.write_bytes(data)
        try:
            adopt(beton, split="train", name="mine")
            open_beton(beton)
        except UserError:
            num_refused += 1
        manifest_path(beton).unlink(missing_ok=True)
    assert num_refused > 50


@pytest.mark.parametrize("kind", ["float", "array", "three"])
def test_other_fields_are_refused(kind: str, tmp_path: Path):
    from ffcv.fields import FloatField, IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(), "label": IntField()}
    label: object = 1
    if kind == "float":
        fields["label"], label = FloatField(), 0.5
    if kind == "array":
        fields["label"], label = NDArrayField(np.dtype("float32"), (4,)), np.zeros(4, np.float32)
    path = tmp_path / "train.beton"
    dataset = Images(label)
    if kind == "three":
        fields["more"] = IntField()
        items = [(*dataset[number], 5) for number in range(NUM_SAMPLES)]
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(items)
    else:
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(dataset)
    expected = {"float": "floating-point", "array": "an array", "three": "3 fields"}[kind]
    with pytest.raises(UserError, match=expected):
        adopt(path, split="train", name="mine")


def test_too_few_class_names_are_refused(beton: Path):
    with pytest.raises(UserError, match="2 class names"):
        adopt(beton, split="train", name="mine", classes=["a", "b"])
    manifest = adopt(beton, split="train", name="mine", classes=["a", "b", "c", "d"])
    assert manifest.class_counts == [10, 10, 10, 0]
    text = json.loads(manifest_path(beton).read_text())
    assert text["adopted"] is True
