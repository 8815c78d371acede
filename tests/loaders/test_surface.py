"""Each argument and use of a loader works, or the error names the value."""

import copy
import dataclasses
import gc
import pickle

import numpy as np
import pytest
import torch

from loaders import Loader, LoaderPlan, kernel_c, open_loader
from writers.errors import UserError


def plan_of(beton, **changes) -> LoaderPlan:
    return LoaderPlan(beton, **({"batch_size": 8, "resolution": 16} | changes))


def pixels(plan: LoaderPlan, epoch: int = 0) -> list[torch.Tensor]:
    with open_loader(plan) as loader, loader.epoch(epoch) as batches:
        return [images.clone() for images, _ in batches]


def test_a_plan_is_pickled_and_copied(betons):
    plan = plan_of(
        betons["raw"], order="random", indices=[3, 1, 2], labels=[0, 1, 2, -1], seed=2**70
    )
    for other in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), copy.copy(plan)):
        assert other == plan and hash(other) == hash(plan)
        assert dataclasses.replace(other, seed=1) != plan
    assert all(map(torch.equal, pixels(plan), pixels(pickle.loads(pickle.dumps(plan)))))


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_loader_is_neither_pickled_nor_copied(betons, use):
    with Loader(betons["raw"], 8, resolution=16) as loader, open_loader(loader.plan) as opened:
        for refused in (loader, opened):
            with pytest.raises(UserError, match="cannot be pickled or copied"):
                use(refused)
        assert len(list(loader)) == 5


def test_numbers_of_numpy_and_torch_are_numbers(betons):
    plan = plan_of(betons["raw"], order="random", num_threads=2, seed=3)
    other = plan_of(
        betons["raw"],
        batch_size=np.int32(8),
        resolution=torch.tensor(16),
        order="random",
        num_threads=np.int64(2),
        seed=np.int64(3),
        labels=np.arange(4),
        horizontal_flip=np.bool_(False),
    )
    assert other == dataclasses.replace(plan, labels=(0, 1, 2, 3))
    assert all(map(torch.equal, pixels(plan, 5), pixels(other, np.int64(5))))
    with Loader(other) as loader:
        loader.set_epoch(np.int64(5))
        assert all(map(torch.equal, pixels(plan, 5), [images for images, _ in loader]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1.5}, "batch_size is 1.5; it must be a whole number"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"batch_size": True}, "batch_size is True"),
        ({"resolution": (16, 16)}, r"resolution is \(16, 16\)"),
        ({"resolution": None}, "resolution is None"),
        ({"num_threads": 0}, "num_threads is 0; it must be at least 1"),
        ({"num_threads": 2.0}, "num_threads is 2.0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"rank": 0.5}, "rank is 0.5"),
        ({"batches_ahead": 1.5}, "batches_ahead is 1.5"),
        ({"crop_scale": 0.5}, "crop_scale is 0.5; it must be two finite numbers"),
        ({"crop_scale": (0.1, 0.2, 0.3)}, "crop_scale"),
        ({"crop_ratio": (1, float("inf"))}, "crop_ratio"),
        ({"center_fraction": "a"}, "center_fraction is a"),
        ({"horizontal_flip": "no"}, "horizontal_flip is 'no'; it must be True or False"),
        ({"drop_last": None}, "drop_last is None"),
        ({"labels": [0.0, 1.0, 2.0, 3.0]}, "labels must have a whole number"),
        ({"labels": 3}, "labels must have a whole number"),
        ({"labels": ["a", "b", "c", "d"]}, "labels must have a whole number"),
        ({"labels": [0, 1, 2, 2**40]}, "the highest possible is 999999"),
        ({"indices": [True, False]}, r"indices is bool[\s\S]*flatnonzero"),
        ({"indices": [0.0]}, "indices is float64"),
        ({"indices": {1, 2}}, "indices is object"),
    ],
)
def test_a_value_of_another_type_is_named(betons, changes, message):
    with pytest.raises(UserError, match=message):
        plan_of(betons["raw"], **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 0}, "num_workers is 0[\\s\\S]*num_workers=1"),
        ({"num_workers": "4"}, "num_workers is '4'"),
        ({"shuffle": True}, "shuffle[\\s\\S]*order='random'"),
        ({"pin_memory": True}, "pin_memory[\\s\\S]*device='cuda'"),
        ({"collate_fn": list}, "collate_fn[\\s\\S]*transform"),
    ],
)
def test_unsupported_parameters_of_torchs_dataloader_are_explained(betons, settings, message):
    with pytest.raises(UserError, match=message):
        Loader(betons["raw"], 8, resolution=16, **settings)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_larger_than_the_file_has_all_of_it(betons, drop_last):
    batches = pixels(plan_of(betons["raw"], batch_size=1000, drop_last=drop_last))
    assert [len(images) for images in batches] == [36]


def test_a_view_without_samples_is_refused(betons):
    for changes in ({"indices": []}, {"indices": np.array([])}, {"labels": [-1] * 4}):
        with pytest.raises(UserError, match="the view has no sample"):
            open_loader(plan_of(betons["raw"], **changes))


def test_epochs_and_states_of_another_type_are_named(betons):
    with Loader(betons["raw"], 8, resolution=16) as loader:
        state = loader.state_dict()
        for epoch in (1.5, "1", None):
            with pytest.raises(UserError, match="must be a whole number"):
                loader.set_epoch(epoch)
        for wrong in (state | {"batch": 1.5}, state | {"epoch": "0"}):
            with pytest.raises(UserError, match="must be a whole number"):
                loader.load_state_dict(wrong)
        with pytest.raises(UserError, match="state is None"):
            loader.load_state_dict(None)
        assert loader.state_dict() == state and len(list(loader)) == 5


def test_an_iterator_outlives_the_name_of_its_loader(betons):
    loader = Loader(betons["raw"], 8, resolution=16)
    batches = iter(loader)
    next(batches)
    del loader
    gc.collect()
    assert len(list(batches)) == 4


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_epoch_that_cannot_begin_leaves_no_other_error(betons, monkeypatch):
    with open_loader(plan_of(betons["raw"])) as loader:
        with monkeypatch.context() as patched:
            patched.setattr(loader.graph, "allocate_memory", None)
            with pytest.raises(TypeError):
                loader.epoch(0)
        gc.collect()
        assert len(list(loader.epoch(0))) == 5


@pytest.mark.skipif(kernel_c.library() is None, reason="the package's C parts were not built")
def test_a_closed_pool_is_refused_before_c_reads_its_memory():
    pool = kernel_c.Pool(1)
    pool.close()
    image, zeros = np.zeros(3, np.uint8), np.zeros(1, np.int64)
    images = kernel_c.stored_images(image, zeros, zeros + 3, zeros + 1, zeros + 1, zeros + 1)
    output, errors = np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.uint8)
    flips, table = np.zeros(1, np.bool_), np.empty((0, 256), np.float16)
    with pytest.raises(RuntimeError, match="pool is closed"):
        pool.make_batch(
            images, np.zeros(1, np.int64), np.array([[0, 0, 1, 1]]), flips, output, errors, table
        )
    with pytest.raises(RuntimeError, match="pool is closed"):
        pool.decode_whole(images, zeros, flips, zeros, image, errors)
