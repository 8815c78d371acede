"""Augmented batches are functions of (seed, epoch, sample id), for every backend."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as oracle

from loaders import Augmentations, Loader, LoaderPlan, open_loader
from loaders.augmentations import batch, draws
from loaders.augmentations.batch import Stream, augment
from loaders.backend import Batch
from loaders.reader import Samples
from tests.helpers.tiny_betons import photo, write_beton
from writers.errors import UserError

EACH = Augmentations.model_validate(
    {
        "randaugment": {"num_ops": 2},
        "color_jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
        "lighting": 0.1,
        "erasing": {"fill": "noise"},
    }
)
MIXED = Augmentations(mixup=0.4, cutmix=1.0)


def plan_of(betons, augmentations: Augmentations | None, **changes: object) -> LoaderPlan:
    plan = LoaderPlan(
        betons["raw"],
        8,
        24,
        augment="random_resized_crop",
        horizontal_flip=True,
        order="random",
        seed=5,
        augmentations=augmentations,
    )
    return dataclasses.replace(plan, **changes)


def batches(plan: LoaderPlan, epoch: int = 1, start: int = 0) -> list[Batch]:
    with open_loader(plan) as loader, loader.epoch(epoch, start_batch=start) as opened:
        return [(images.clone(), labels.clone()) for images, labels in opened]


def by_id(plan: LoaderPlan, epoch: int = 1) -> dict[int, torch.Tensor]:
    """Return the images of an epoch, uint8 [3, R, R] each, by sample id."""
    with open_loader(plan) as loader:
        ids = loader.samples.ids[loader.samples.order(plan, epoch)]
    images = torch.cat([images for images, _ in batches(plan, epoch)])
    return dict(zip(ids.tolist(), images, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "resident"},
        {"backend": "reference"},
        {"batch_size": 36},
        {"batch_size": 5},
        {"num_threads": 2},
        {"order": "sequential"},
        {"order": "quasi_random"},
        {"indices": list(range(3, 30))},
    ],
    ids=lambda changes: str(next(iter(changes.items()))[:2])[:30],
)
def test_an_image_is_augmented_alike_by_every_loader(betons, changes):
    expected, found = by_id(plan_of(betons, EACH)), by_id(plan_of(betons, EACH, **changes))
    assert len(found) == (27 if "indices" in changes else 36)
    for sample, image in found.items():
        assert torch.equal(image, expected[sample])
    plain = by_id(plan_of(betons, None))
    assert sum(not torch.equal(plain[sample], expected[sample]) for sample in plain) == 36


def test_epochs_and_seeds_differ_and_a_resume_continues(betons):
    first = batches(plan_of(betons, EACH))
    again = batches(plan_of(betons, EACH), start=2)
    for (images, labels), (expected, expected_labels) in zip(again, first[2:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
    expected = by_id(plan_of(betons, EACH, augment="center_crop", horizontal_flip=False))
    for other in (
        by_id(plan_of(betons, EACH, augment="center_crop", horizontal_flip=False), 2),
        by_id(plan_of(betons, EACH, augment="center_crop", horizontal_flip=False, seed=6)),
    ):
        assert sum(torch.equal(other[sample], expected[sample]) for sample in other) <= 2


def test_the_order_of_an_epoch_is_computed_once(betons, monkeypatch):
    """For ImageNet, computing the order takes up to a second."""
    order, calls = Samples.order, []

    def counted(self: Samples, *arguments: object) -> np.ndarray:
        calls.append(arguments)
        return order(self, *arguments)

    monkeypatch.setattr(Samples, "order", counted)
    with open_loader(plan_of(betons, EACH)) as loader, loader.epoch(0) as epoch:
        assert len(list(epoch)) == len(loader)
    assert len(calls) == 1


@pytest.mark.parametrize("augmentations", [EACH, MIXED], ids=["each", "mixed"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_have_the_batches_of_a_single_process(betons, augmentations, world_size):
    """This also holds for mixed batches, if twice the number of ranks divides the batch size."""
    whole = batches(plan_of(betons, augmentations, drop_last=True))
    parts = [
        batches(plan_of(betons, augmentations, drop_last=True, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len(whole) == 4
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        for rank, (part_images, part_labels) in enumerate(shares):
            assert torch.equal(part_images, images[rank::world_size])
            assert torch.equal(part_labels, labels[rank::world_size])


def test_images_and_labels_are_mixed_with_the_same_weights(betons):
    """The oracle is torchvision's MixUp, and for CutMix a pasted rectangle, image by image."""
    plain = batches(plan_of(betons, None))
    with open_loader(plan_of(betons, MIXED)) as loader:
        order = loader.samples.batches(loader.plan, 1)
        ids = [loader.samples.ids[positions] for positions in order]
    num_cut = 0
    for (images, labels), (sources, numbers), of_batch in zip(
        batches(plan_of(betons, MIXED)), plain, ids, strict=True
    ):
        drawn = draws.mixes(MIXED, 5, 1, of_batch)
        assert labels.dtype == torch.float32
        assert torch.allclose(labels.sum(1), torch.ones(len(labels)))
        for row in range(len(labels)):
            partner = (row + len(labels) // 2) % len(labels)
            if drawn.cuts[row]:
                differs = (images[row] != sources[row]).any(0)
                own = 1 - labels[row, numbers[partner]].item()
                if numbers[row] != numbers[partner] and differs.any():
                    num_cut += 1
                    rows, columns = differs.any(1).nonzero(), differs.any(0).nonzero()
                    box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                    assert torch.equal(images[row][box], sources[partner][box])
                    assert differs.float().mean() <= 1 - own + 1e-6
            else:
                own = float(drawn.own[row])
                blend = own * sources[row].double() + (1 - own) * sources[partner].double()
                assert (images[row] - blend).abs().max() <= 0.51
            expected = torch.zeros(4)
            expected[numbers[row]] += own
            expected[numbers[partner]] += 1 - own
            assert torch.allclose(labels[row], expected, atol=1e-6)
    assert num_cut > 5


def test_color_jitter_is_torchvisions_with_the_drawn_factors(betons):
    settings = Augmentations.model_validate(
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}}
    )
    plain, jittered = by_id(plan_of(betons, None)), by_id(plan_of(betons, settings))
    adjust = (oracle.adjust_brightness, oracle.adjust_contrast, oracle.adjust_saturation)
    for sample, image in jittered.items():
        drawn = draws.jitter(settings.color_jitter, 5, 1, np.array([sample], np.uint64))
        wanted = plain[sample]
        for number in drawn.order[0]:
            if number < 3:
                wanted = adjust[number](wanted, float(drawn.factors[0, number]))
        # Each operation may differ by a level; each later one scales this by at most 1.4.
        assert (image.int() - wanted.int()).abs().max() <= 4
        assert (image.int() - wanted.int()).abs().float().mean() < 0.3


def test_normalized_batches_are_those_of_the_augmented_pixels(betons):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = batches(plan_of(betons, EACH))
    normalized = batches(plan_of(betons, EACH, dtype="float16", mean=mean, std=std))
    for (images, _), (values, _) in zip(pixels, normalized, strict=True):
        assert values.dtype == torch.float16
        assert values.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(values, oracle.normalize(images.double() / 255, mean, std).half())


def test_damaged_images_do_not_shift_the_others(tmp_path):
    images = [photo(40, 30, seed=number) for number in range(12)]
    whole = write_beton(tmp_path / "whole.beton", images, [0] * 12, raw=[False] * 12)
    plan = LoaderPlan(whole, 4, 24, augmentations=EACH)
    expected = by_id(plan)
    with open_loader(plan) as loader:
        offset, size = int(loader.samples.offsets[5]), int(loader.samples.sizes[5])
        lost = int(loader.samples.ids[5])
    with whole.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    found = batches(dataclasses.replace(plan, on_corrupt="skip"))
    assert [len(labels) for _, labels in found] == [4, 3, 4]
    del expected[lost]
    wanted = list(expected.values())
    assert torch.equal(torch.cat([images for images, _ in found]), torch.stack(wanted))


def test_other_resolutions_keep_what_was_drawn(betons):
    """Progressive resizing changes sizes; MixUp's weights are those of the sample."""
    with open_loader(plan_of(betons, MIXED)) as loader:
        for side in (16, 32):
            with loader.epoch(1, side) as opened:
                images, labels = next(opened)
                assert images.shape[-1] == side
                if side == 16:
                    first = labels.clone()
        drawn = draws.mixes(
            MIXED, 5, 1, loader.samples.ids[loader.samples.batches(loader.plan, 1)[0]]
        )
    kept = ~drawn.cuts
    assert torch.equal(first[kept], labels[kept])


def test_the_loader_of_the_python_interface_takes_augmentations(betons):
    own = Augmentations.model_validate("salman")
    with Loader(
        betons["raw"], 8, resolution=24, augmentations=own, transform=lambda x, y: (x.float(), y)
    ) as loader:
        images, _ = next(iter(loader))
    (expected, _), *_ = batches(LoaderPlan(betons["raw"], 8, 24, augmentations=own), epoch=0)
    assert torch.equal(images, expected.float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no augmentation"),
        ("madrylab", "presets are non_binary, salman"),
        ({"color_jitter": {"brightness": 0}}, "all of its strengths are 0"),
        ({"color_jitter": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"mixup": 0}, "greater than 0"),
        ({"mix_probability": 0.5}, "with mixup or cutmix only"),
        ({"mixup": 1, "cutmix_share": 0.5}, "with both mixup and cutmix only"),
        ({"randaugment": {"magnitude": 31}}, "the highest is 30"),
        ({"randaugment": {"ops": "timm", "magnitude": 11}}, "the highest is 10"),
        ({"randaugment": {"magnitude": 8.5}}, "a whole number"),
        ({"randaugment": {"magnitude_std": 1}}, "with ops: timm only"),
        ({"erasing": {"area": [0.5, 0.2]}}, "must be"),
        ({"erasing": {"ratio": [3, 0.2]}}, "must be"),
        ({"grayscale": 0.1}, "Extra inputs"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Augmentations.model_validate(settings)


def test_a_preset_can_be_changed_and_reads_back():
    own = Augmentations.model_validate(
        {"preset": "salman", "color_jitter": {"hue": 0.1}, "mixup": 0.1}
    )
    assert own.color_jitter.hue == own.color_jitter.brightness == 0.1
    assert (own.lighting, own.mixup) == (0.05, 0.1)
    dumped = json.dumps(own.model_dump(mode="json", exclude_none=True))
    assert Augmentations.model_validate_json(dumped, strict=True) == own


def test_several_crops_cannot_be_augmented(betons):
    with pytest.raises(UserError, match="one crop per image"):
        plan_of(betons, EACH, crops_per_image=2)


def test_images_with_several_labels_are_augmented_but_not_mixed(betons, monkeypatch):
    monkeypatch.setattr(Samples, "multi_label", True)
    with pytest.raises(UserError, match="need one label per image"):
        open_loader(plan_of(betons, MIXED))
    assert batches(plan_of(betons, EACH))[0][1].dtype == torch.int64


@pytest.mark.parametrize("settings", [EACH, MIXED], ids=["each", "mixed"])
def test_results_do_not_depend_on_how_many_images_are_computed_at_once(settings, monkeypatch):
    pixels = torch.randint(256, (40, 24, 24, 3), dtype=torch.uint8)
    images, labels = pixels.permute(0, 3, 1, 2), torch.arange(40) % 4
    stream = Stream(1, 2, np.arange(40, dtype=np.uint64))
    expected = augment(images, labels, settings, stream, 4)
    assert torch.equal(images, pixels.permute(0, 3, 1, 2)), "the batch itself is not changed"
    for size in (1, 7, 40):
        monkeypatch.setitem(batch._IMAGES_AT_ONCE, "cpu", size)
        for one, other in zip(expected, augment(images, labels, settings, stream, 4), strict=True):
            assert torch.equal(one, other)
    floats = augment(images.float() / 255, labels, settings, stream, 4)
    assert torch.equal(floats[0], expected[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "settings",
    [
        EACH,
        MIXED,
        Augmentations.model_validate("non_binary"),
        Augmentations.model_validate({"erasing": {"fill": "color", "probability": 1.0}}),
    ],
)
def test_a_gpu_gives_the_bits_of_a_cpu(settings):
    """This holds for images and labels, also in several chunks."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (600, 40, 40, 3), dtype=torch.uint8, generator=generator)
    images, labels = pixels.permute(0, 3, 1, 2), torch.arange(600) % 10
    stream = Stream(1, 2, np.arange(600, dtype=np.uint64))
    expected = augment(images, labels, settings, stream, 10)
    found = augment(images.cuda(), labels.cuda(), settings, stream, 10)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other.cpu())
