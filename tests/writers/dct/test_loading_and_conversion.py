"""`.beton` files of `dct` blobs in use: resumed, viewed, cropped several times, converted, interrupted."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.pictures import picture
from writers.beton.convert import to_dct, to_jpeg
from writers.beton.encoding import DCT, Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.jpeg import native as kernel
from writers.source import Source
from writers.subset.spec import everything

pytestmark = pytest.mark.skipif(
    kernel.library() is None, reason="the package's C parts were not built"
)
BACKENDS = ["ffcv", "resident", "reference"]


@pytest.fixture
def betons(tree: Path, source: Source, tmp_path: Path) -> dict[str, Path]:
    """Write the same images as JPEGs and as blobs; return the paths of both files, by format.

    One image is too narrow for a blob, and one is no JPEG.
    """
    picture(901, 7, 90).save(tree / "train" / "dog" / "train_0.jpg")
    picture(902, 30, 20).save(tree / "train" / "dog" / "train_3.png")
    for name in ("passthrough", "dct"):
        subset, encoding = everything(source.classes), Encoding(format=name)
        write_split(source, "train", subset, encoding, tmp_path / f"{name}.beton")
    assert 10 < (open_beton(tmp_path / "dct.beton").rows["mode"] == DCT).sum() < 15
    return {"jpeg": tmp_path / "passthrough.beton", "dct": tmp_path / "dct.beton"}


def batches(path: Path, *, start: int = 0, **changes: object) -> list[torch.Tensor]:
    """Return images and labels of epoch 2 in turn: images, labels, images, ..."""
    settings = {"augment": "random_resized_crop", "horizontal_flip": True, "order": "random"}
    with open_loader(LoaderPlan(path, 4, 32, **(settings | changes))) as loader:
        return [part.clone() for batch in loader.epoch(2, start_batch=start) for part in batch]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(first, second) for first, second in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["random", "quasi_random"])
def test_an_epoch_resumes_in_the_middle(betons, backend, order):
    expected = batches(betons["jpeg"], order=order)
    assert len(expected) == 8
    for start in (0, 1, 3, 4):
        found = batches(betons["dct"], start=start, backend=backend, order=order)
        assert equal(found, expected[2 * start :])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["random", "sequential"])
def test_views_have_the_pixels_and_labels_of_the_jpegs(betons, backend, order):
    view = {"indices": (14, 2, 7, 8, 0, 5, 11), "labels": (1, -1, 0), "order": order}
    found = batches(betons["dct"], backend=backend, **view)
    assert found and equal(found, batches(betons["jpeg"], **view))


@pytest.mark.parametrize("backend", ["ffcv", "reference"])
@pytest.mark.parametrize("num_crops", [2, 5])
def test_several_crops_are_those_of_the_jpegs(betons, backend, num_crops):
    several = {"crops_per_image": num_crops, "crop_scale": (0.05, 0.6)}
    found = batches(betons["dct"], backend=backend, **several)
    assert found[0].shape == (4, num_crops, 3, 32, 32)
    assert equal(found, batches(betons["jpeg"], **several))
    assert equal(
        [part[:, 0] for part in found[::2]], batches(betons["dct"], crop_scale=(0.05, 0.6))[::2]
    )


CONVERSIONS = {"to_dct": (to_dct, "jpeg"), "to_jpeg": (to_jpeg, "dct")}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", [0, 6, 14])
def test_an_interrupted_conversion_keeps_the_old_file(betons, tmp_path, name, error, at):
    convert, source = CONVERSIONS[name]
    file = tmp_path / "out" / "train.beton"
    convert(betons[source], file)
    before = file.read_bytes()

    def stop(done: int, total: int) -> None:
        if done == at:
            raise error

    with pytest.raises(error):
        convert(betons[source], file, num_threads=2, progress=stop)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "train.beton",
        "train.beton.json",
    ]
    assert file.read_bytes() == before and verify(file) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from writers.beton.convert import to_dct

def stop(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

to_dct(Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)
"""


def test_a_killed_conversion_leaves_no_beton_and_the_next_one_succeeds(betons, tmp_path):
    file = tmp_path / "out" / "train.beton"
    ended = subprocess.run([sys.executable, "-c", KILLED, betons["jpeg"], file, "9"], check=False)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="no beton"):
        open_beton(file)
    to_dct(betons["jpeg"], file)
    assert file.read_bytes() == betons["dct"].read_bytes() and verify(file) == []
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "train.beton",
        "train.beton.json",
    ]


def test_a_damaged_source_is_named_and_leaves_no_file(betons, tmp_path):
    beton = open_beton(betons["jpeg"])
    number = int(np.argmax(beton.sizes))
    data = bytearray(betons["jpeg"].read_bytes())
    data[int(beton.rows["offset"][number]) + int(beton.sizes[number]) // 2] ^= 0x55
    betons["jpeg"].write_bytes(data)
    with pytest.raises(UserError, match=f"Sample {number} of .* is damaged"):
        to_dct(betons["jpeg"], tmp_path / "out" / "train.beton")
    assert list((tmp_path / "out").iterdir()) == []


def test_stock_loaders_of_ffcv_refuse_it_before_the_first_batch(betons):
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    with pytest.raises(ValueError, match="custom field"):
        Loader(str(betons["dct"]), 4, 1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
