"""float16 batches equal uint8 batches normalized by torch, in every backend and kernel."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from loaders import kernel, normalize, open_loader
from loaders.backends import resident
from loaders.plan import LoaderPlan
from loaders.preflight import slot_bytes
from tests.helpers.tiny_betons import write_beton
from writers.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = {"dtype": "float16", "mean": MEAN, "std": STD}


def batches_of(plan: LoaderPlan) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with open_loader(plan) as loader, loader.epoch(1) as batches:
        return [(images.clone(), labels.clone()) for images, labels in batches]


def normalized(levels: torch.Tensor) -> torch.Tensor:
    """Normalize uint8 [..., 3, H, W] as a model does, in float64 that is rounded to float16 once."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return ((levels.double() / 255 - mean) / std).half()


@pytest.fixture(
    params=[
        "c",
        "numba",
        "reference loops",
        "resident",
        "resident, as on a GPU",
        "synthetic",
        "replay",
    ]
)
def backend(request, monkeypatch) -> str:
    """Each backend, with each of its code paths."""
    if request.param in ("c", "numba"):
        if request.param == "c" and importlib.util.find_spec("loaders._kernel") is None:
            pytest.skip("the package's C parts were not built")
        monkeypatch.setattr(kernel, "best_kernel", lambda: request.param)
        return "ffcv"
    if request.param == "resident, as on a GPU":
        real = resident.ResidentLoader.__init__

        def without_kernel(self: resident.ResidentLoader, *arguments: object) -> None:
            real(self, *arguments)
            self._kernel = None

        monkeypatch.setattr(resident.ResidentLoader, "__init__", without_kernel)
    return {"reference loops": "reference"}.get(request.param, request.param.partition(",")[0])


def test_float16_is_the_uint8_batch_normalized_by_torch(betons, backend):
    plan = LoaderPlan(
        betons["mixed"], 8, 24, augment="random_resized_crop", horizontal_flip=True, order="random"
    )
    plan = dataclasses.replace(plan, num_threads=2, backend=backend)
    levels, halves = batches_of(plan), batches_of(dataclasses.replace(plan, **HALF))
    assert len(halves) == 5
    for (images, labels), (expected, expected_labels) in zip(halves, levels, strict=True):
        assert images.dtype == torch.float16
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, normalized(expected)) and torch.equal(labels, expected_labels)


def test_a_conversion_is_used_only_if_it_equals_the_table():
    plan = LoaderPlan("x.beton", 1, 8, **HALF)
    shift, scale = normalize.conversion(plan)
    values = (np.arange(256, dtype=np.float32) - shift[:, None]) * scale[:, None]
    assert np.array_equal(values.astype(np.float16), normalize.lookup_table(plan))
    assert (
        normalize.conversion(dataclasses.replace(plan, dtype="uint8", mean=None, std=None)) is None
    )
    # The mean is so close to level 100 that float32 has too few digits for the difference.
    close = dataclasses.replace(plan, mean=(0.3921569, 0.5, 0.5), std=(0.01, 0.5, 0.5))
    assert normalize.conversion(close) is None


def test_every_level_of_every_color_is_normalized(tmp_path):
    """The image has each level of each color, and is shown as it is."""
    image = np.stack(
        [np.roll(np.arange(256, dtype=np.uint8).reshape(16, 16), shift) for shift in (0, 5, 90)],
        axis=2,
    )
    beton = write_beton(tmp_path / "t.beton", [image], [0], raw=[True])
    ((images, _),) = batches_of(LoaderPlan(beton, 1, 16, center_fraction=1.0, **HALF))
    assert torch.equal(images[0], normalized(torch.from_numpy(image).permute(2, 0, 1)))


def test_poison_overwrites_a_float16_batch_that_is_held_too_long(betons):
    with open_loader(
        LoaderPlan(betons["raw"], 8, 16, poison=True, batches_ahead=4, **HALF)
    ) as loader:
        epoch = loader.epoch(0)
        held, _ = next(epoch)
        next(epoch)
        assert (held == 77).all()


def test_slots_are_counted_at_their_size(betons):
    plan = LoaderPlan(betons["raw"], 8, 16)
    assert (
        slot_bytes(dataclasses.replace(plan, **HALF))
        == 2 * slot_bytes(plan)
        == 2 * 4 * 8 * 3 * 16 * 16
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": MEAN}, "mean has no effect on uint8"),
        ({"std": STD}, "std has no effect on uint8"),
        ({"dtype": "float16"}, "mean is None"),
        ({"dtype": "float16", "mean": MEAN}, "std is None"),
        (HALF | {"mean": (0.5, 0.5)}, "three numbers"),
        (HALF | {"std": (1, 0, 1)}, "above 0"),
        (HALF | {"mean": (0.5, float("nan"), 0.5)}, "three numbers"),
        (HALF | {"std": (1, 1e-9, 1)}, "float16.s maximum"),
        ({"dtype": "float32"}, "dtype is 'float32'; it must be one of uint8, float16"),
        ({"augment": "random_resize_crop"}, "augment is 'random_resize_crop'"),
        ({"order": "shuffled"}, "order is 'shuffled'"),
        ({"on_corrupt": "ignore"}, "on_corrupt is 'ignore'"),
    ],
)
def test_invalid_dtypes_and_options_are_refused(betons, changes, message):
    with pytest.raises(UserError, match=message):
        open_loader(LoaderPlan(betons["raw"], 8, 16, **changes))


def test_plans_differ_by_dtype_mean_and_std(betons):
    plan = LoaderPlan(betons["raw"], 8, 16, **HALF)
    assert plan == LoaderPlan(
        betons["raw"], 8, 16, dtype="float16", mean=list(MEAN), std=np.array(STD)
    )
    assert (
        len({plan, LoaderPlan(betons["raw"], 8, 16), dataclasses.replace(plan, mean=(0, 0, 0))})
        == 3
    )
