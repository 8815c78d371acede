"""Passes over a split on the fake device: evaluation, ranking and features."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.modeling.classifier import Classifier
from harness.train.evaluate import View, evaluate
from harness.transfer.features import Features, extract
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton
from tests.rehearsal import product
from tests.rehearsal.cuda import no_sync

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LoaderPlan:
    """21 images: five whole batches and one image."""
    images = [photo(24, 24, seed=number) for number in range(21)]
    labels = [number % product.NUM_CLASSES for number in range(21)]
    path = tmp_path_factory.mktemp("beton") / "val.beton"
    return LoaderPlan(write_beton(path, images, labels, raw=[True] * 21), BATCH_SIZE, 24)


def on_cuda(plan: LoaderPlan) -> LoaderPlan:
    return replace(plan, device="cuda:0", backend="resident")


def features_of(plan: LoaderPlan, device: str) -> Features:
    with open_loader(plan) as loader:
        return extract(product.make_model(), loader, device=device, precision="float32")


def scores(plan: LoaderPlan, device: str, model: Classifier | None = None, **options) -> list:
    with open_loader(plan) as loader:
        counts = evaluate(
            model or product.make_model(),
            loader,
            device=device,
            precision="float32",
            num_classes=product.NUM_CLASSES,
            views={"own": View()},
            keep_predictions=True,
            **options,
        )["own"]
    return [*counts.predictions(), counts.per_class()[1].numpy()]


def test_features_are_those_of_the_cpu(plan, request):
    expected = features_of(plan, "cpu")
    request.getfixturevalue("faked")
    found = features_of(on_cuda(plan), "cuda:0")
    for name in ("features", "probs", "labels", "ids"):
        assert (getattr(found, name) == getattr(expected, name)).all(), name


def test_features_do_not_wait_for_each_batch(faked, plan):
    with open_loader(on_cuda(plan)) as loader, no_sync():
        extract(product.make_model(), loader, device="cuda:0", precision="float32")


class Watched(Classifier):
    """A network that notes the state of cuDNN's autotuning in each pass."""

    seen: list[bool]

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(torch.backends.cudnn.benchmark)
        return super().features(images)


@pytest.mark.parametrize("run", [scores, features_of])
def test_passes_use_cudnn_autotuning_and_restore_it(faked, plan, run, monkeypatch):
    model = product.make_model()
    model.__class__, model.seen = Watched, []
    monkeypatch.setattr(product, "make_model", lambda: model)
    run(on_cuda(plan), "cuda:0")
    assert len(model.seen) == 6 and all(model.seen)
    assert not torch.backends.cudnn.benchmark
    model.seen.clear()
    run(plan, "cpu")
    assert not any(model.seen)
