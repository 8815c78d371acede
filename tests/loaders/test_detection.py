"""Whole images with boxes: equal to Pillow's pixels, mirrored together, reproducible, resumable."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loaders import kernel_c
from loaders.backends.reference import choose_crop
from loaders.detection import DetectionBatch, DetectionPlan, open_detection_loader
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from loaders.whole_images import WholeImageDecoder
from tests.helpers.boxed_source import CLASSES, SIZES, expected, source_of
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Example, ids_of
from writers.subset.spec import everything

FORMATS = {
    "raw": Encoding(format="raw"),
    "jpeg": Encoding(format="passthrough"),
    "indexed": Encoding(format="passthrough", restart_index=True),
    "dct": Encoding(format="dct"),
}
IDS = ids_of([Example("", 0, str(number)) for number in range(6)]).view(np.int64).tolist()


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("boxed")
    files = {name: folder / f"{name}.beton" for name in FORMATS}
    for name, encoding in FORMATS.items():
        write_split(source_of(range(6)), "train", everything(CLASSES), encoding, files[name])
    return files


def oracle(number: int) -> np.ndarray:
    """Decode the image file by Pillow, uint8 [H, W, 3]."""
    return np.asarray(
        Image.open(io.BytesIO(source_of(range(6)).files.read(f"{number}.jpg"))).convert("RGB")
    )


def loaded(plan: DetectionPlan, epoch: int = 0, start_batch: int = 0) -> list[DetectionBatch]:
    with open_detection_loader(plan) as loader:
        return list(loader.epoch(epoch, start_batch))


def assert_equal(first: list[DetectionBatch], second: list[DetectionBatch]) -> None:
    assert [batch.ids.tolist() for batch in first] == [batch.ids.tolist() for batch in second]
    for one, other in zip(first, second, strict=True):
        for name in ("images", "boxes", "labels", "difficult"):
            for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
                assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_images_and_boxes_equal_the_oracle(name: str, betons: dict[str, Path]):
    plan = DetectionPlan(betons[name], batch_size=4, horizontal_flip=True, seed=7)
    seen, flipped = set(), 0
    for epoch in range(3):
        batches = loaded(plan, epoch)
        assert [len(batch) for batch in batches] == [4, 2]
        for batch in batches:
            for place, sample in enumerate(batch.ids.tolist()):
                number = IDS.index(sample)
                image, boxes = oracle(number), expected(number)
                width, height = SIZES[number]
                # the reference computes one sample at a time, in Python integers
                as_crops = LoaderPlan(betons[name], 4, 1, horizontal_flip=True, seed=7)
                _, is_flipped = choose_crop(as_crops, epoch, sample % 2**64, width, height)
                if is_flipped:
                    image = image[:, ::-1]
                    flags = [
                        [width - right, top, width - left, bottom]
                        for left, top, right, bottom in boxes[:, :4].tolist()
                    ]
                    boxes[:, :4] = np.array(flags, np.float32).reshape(-1, 4)
                pixels = batch.images[place]
                assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
                assert np.array_equal(pixels.permute(1, 2, 0).numpy(), image), number
                assert batch.boxes[place].shape == (len(boxes), 4)
                assert np.array_equal(batch.boxes[place].numpy(), boxes[:, :4])
                assert batch.labels[place].tolist() == boxes[:, 4].tolist()
                assert batch.labels[place].dtype == torch.int64
                assert batch.difficult[place].tolist() == (boxes[:, 5] == 1).tolist()
                seen.add(number)
                flipped += is_flipped
    assert seen == set(range(6)) and 0 < flipped < 18


@pytest.mark.parametrize("name", FORMATS)
def test_threads_kernels_and_instructions_do_not_matter(
    name: str, betons: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    plan = DetectionPlan(betons[name], batch_size=4, horizontal_flip=True, seed=3)
    first = loaded(plan)
    threads = DetectionPlan(betons[name], batch_size=4, horizontal_flip=True, seed=3, num_threads=3)
    assert_equal(first, loaded(threads))
    samples = open_samples(plan.of_images)
    positions, flips = np.arange(6), np.arange(6) % 2 == 0
    decoders = [WholeImageDecoder(samples, 2, "pillow")]
    for instructions in kernel_c.instruction_sets():
        decoder = WholeImageDecoder(samples, 2, "c")
        decoder._pool = kernel_c.Pool(2, instructions)
        decoders.append(decoder)
    images = [decoder.decode(positions, flips) for decoder in decoders]
    for others in images[1:]:
        assert all(torch.equal(a, b) for a, b in zip(images[0], others, strict=True))
    for decoder in decoders:
        decoder.close()
    monkeypatch.setattr(kernel_c, "library", lambda: None)
    assert_equal(first, loaded(plan))


def test_an_epoch_resumes_and_differs_from_the_next(betons: dict[str, Path]):
    plan = DetectionPlan(betons["indexed"], batch_size=2, horizontal_flip=True, seed=1)
    whole = loaded(plan, 4)
    for start in range(4):
        assert_equal(whole[start:], loaded(plan, 4, start))
    orders = {tuple(i for b in loaded(plan, epoch) for i in b.ids.tolist()) for epoch in range(6)}
    assert len(orders) > 1
    with pytest.raises(UserError, match="cannot start at batch 4"):
        loaded(plan, 4, 4)


def test_order_is_that_of_the_classification_loader(betons: dict[str, Path]):
    for order in ("random", "sequential"):
        plan = DetectionPlan(betons["raw"], batch_size=4, order=order, seed=5, drop_last=True)
        as_crops = LoaderPlan(betons["raw"], 4, 32, order=order, seed=5, drop_last=True)
        samples = open_samples(as_crops)
        wanted = samples.ids[samples.order(as_crops, 2)].view(np.int64).tolist()
        batches = loaded(plan, 2)
        assert [len(batch) for batch in batches] == [4]
        assert batches[0].ids.tolist() == wanted


def test_indices_select_images_with_their_own_boxes(betons: dict[str, Path]):
    plan = DetectionPlan(betons["raw"], batch_size=8, order="sequential", indices=[4, 1])
    [batch] = loaded(plan)
    beton = open_beton(betons["raw"])
    assert batch.ids.tolist() == beton.ids[[4, 1]].view(np.int64).tolist()
    for place, index in enumerate((4, 1)):
        assert np.array_equal(batch.boxes[place].numpy(), beton.boxes(index)[:, :4])


def test_batches_stay_valid_and_leaving_early_ends_the_threads(betons: dict[str, Path]):
    before = threading.active_count()
    with open_detection_loader(DetectionPlan(betons["indexed"], batch_size=1)) as loader:
        assert (len(loader), loader.num_samples, loader.classes) == (6, 6, tuple(CLASSES))
        first = next(epoch := loader.epoch(0))
        copies = [image.clone() for image in first.images]
        list(loader.epoch(0))
        assert all(torch.equal(a, b) for a, b in zip(first.images, copies, strict=True))
        epoch.close()  # type: ignore[attr-defined]
        stale = loader.epoch(0)
        next(stale)
    with pytest.raises(RuntimeError, match="closed"):
        for _ in stale:
            pass
    with pytest.raises(UserError, match="closed"):
        loader.epoch(0)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["jpeg", "indexed", "dct"])
def test_a_damaged_image_is_named(name: str, betons: dict[str, Path], tmp_path: Path):
    file = tmp_path / "bad.beton"
    data = bytearray(betons[name].read_bytes())
    beton = open_beton(betons[name])
    row, size = beton.rows[2], int(beton.sizes[2])
    start = int(row["offset"]) + size // 3
    data[start : start + size // 3] = b"\xff" * (size // 3)
    file.write_bytes(data)
    (tmp_path / "bad.beton.json").write_bytes(
        betons[name].with_name(f"{name}.beton.json").read_bytes()
    )
    with pytest.raises(UserError, match=r"Sample 2 of .*bad\.beton does not decode"):
        loaded(DetectionPlan(file, batch_size=6))


def test_bad_plans_and_betons_without_boxes_are_refused(betons: dict[str, Path], tmp_path: Path):
    plain = source_of(range(6), has_boxes=False)
    write_split(plain, "train", everything(CLASSES), FORMATS["raw"], tmp_path / "plain.beton")
    with pytest.raises(UserError, match=r"plain\.beton has no boxes"):
        open_detection_loader(DetectionPlan(tmp_path / "plain.beton", batch_size=1))
    with pytest.raises(UserError, match="There is no beton"):
        open_detection_loader(DetectionPlan(tmp_path / "none.beton", batch_size=1))
    for wrong in ({"batch_size": 0}, {"num_threads": 0}, {"order": "balanced"}):
        with pytest.raises(UserError, match=f"DetectionPlan.{next(iter(wrong))}"):
            DetectionPlan(**{"beton": betons["raw"], "batch_size": 1, **wrong})
    with pytest.raises(UserError, match="sample 6"):
        open_detection_loader(DetectionPlan(betons["raw"], batch_size=1, indices=[6]))
