"""Evaluation, compared with a numpy loop over images: views, attacks and module modes."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config.attack import AttackSettings
from harness.modeling import classifier
from harness.train.attack import pgd
from harness.train.evaluate import EvaluationPlan, View, evaluate

K, N = 7, 23
COMMON = (1, 2, 5, 6)
VIEWS = {
    "own": View(),
    "unmasked": View(labels=COMMON),
    "masked": View(labels=COMMON, logits=COMMON),
}


class FakeLoader:
    """Yields batches in one buffer that is overwritten later, as real loaders do."""

    multi_label = False
    plan = SimpleNamespace(local_batch_size=5, resolution=24)

    def __init__(self, num_samples: int = N) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (N, 3, 24, 24), dtype=torch.uint8, generator=generator)
        self.labels = torch.arange(N) * 3 % K
        self.num_samples = num_samples

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        assert epoch == 0
        buffer = torch.empty(5, 3, 24, 24, dtype=torch.uint8).to(memory_format=torch.channels_last)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for first in range(0, N, 5):
                images = self.images[first : first + 5]
                buffer[: len(images)] = images
                yield buffer[: len(images)], self.labels[first : first + 5]
                buffer.zero_()

        yield batches()


@pytest.fixture
def net() -> classifier.Classifier:
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=(16, 16, 16, 32))
    with torch.no_grad():
        model(torch.rand(16, 3, 24, 24))
        model.head.weight.mul_(20)
    model.train()
    model.backbone.stage3.eval()
    return model


def slow_scores(
    model: classifier.Classifier, images: Tensor, labels: np.ndarray, view: View
) -> dict[str, float]:
    """Compute the scores image by image, in float64 with numpy."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    right, top5, losses, classes = [], [], [], []
    chosen = list(range(K)) if view.logits is None else list(view.logits)
    for image, label in zip(images, labels, strict=True):
        if view.labels is not None and label not in view.labels:
            continue
        with torch.no_grad():
            logits = model(image[None])[0].double().numpy()[chosen]
        order = [chosen[i] for i in np.argsort(-logits, kind="stable")]
        right.append(order[0] == label)
        top5.append(label in order[:5])
        losses.append(np.log(np.exp(logits).sum()) - logits[chosen.index(label)])
        classes.append(label)
    for module, training in modes.items():
        module.training = training
    per_class = [
        np.mean([r for r, c in zip(right, classes, strict=True) if c == k]) for k in set(classes)
    ]
    return {
        "top1": np.mean(right),
        "top5": np.mean(top5),
        "mean_per_class": np.mean(per_class),
        "loss": np.mean(losses),
        "num_images": len(right),
        "num_correct": sum(right),
    }


def test_clean_scores_equal_a_numpy_loop(net):
    loader = FakeLoader()
    counts = evaluate(
        net, loader, EvaluationPlan(device="cpu", precision="float32", num_classes=K, views=VIEWS)
    )
    for name, view in VIEWS.items():
        assert counts[name].scores() == pytest.approx(
            slow_scores(net, loader.images, loader.labels.numpy(), view),
            rel=1e-5,  # the loop computes float32 logits of single images
        )
    assert 0 < counts["own"].scores()["top1"] < 1, "some predictions must be right and some wrong"
    assert counts["masked"].scores()["top1"] > counts["unmasked"].scores()["top1"]


@pytest.mark.parametrize("best_iterate", [False, True])
def test_one_attack_on_all_logits_serves_all_views(net, best_iterate):
    loader, attack = (
        FakeLoader(),
        AttackSettings(steps=4, relative_step_size=0.5, best_iterate=best_iterate),
    )
    counts = evaluate(
        net,
        loader,
        EvaluationPlan(
            device="cpu",
            precision="float32",
            num_classes=K,
            views=VIEWS,
            attack=attack,
            eps=0.8,
            attacked_logits="all",
        ),
    )
    moved = pgd(
        net,
        loader.images / 255,
        loader.labels,
        norm="l2",
        eps=0.8,
        steps=4,
        step_size=0.4,
        best_iterate=best_iterate,
    )
    clean = evaluate(
        net, loader, EvaluationPlan(device="cpu", precision="float32", num_classes=K, views=VIEWS)
    )
    for name, view in VIEWS.items():
        scores = counts[name].scores()
        assert scores == pytest.approx(
            slow_scores(net, moved, loader.labels.numpy(), view),
            rel=1e-5,  # the loop computes float32 logits of single images
        )
        assert scores["num_images"] == clean[name].scores()["num_images"]
    assert counts["own"].scores()["loss"] > clean["own"].scores()["loss"] + 0.1


def test_the_attack_on_a_masked_view_sees_the_scored_logits_only(net):
    """The oracle is a network that has the logits of the common classes only."""
    loader, attack = FakeLoader(), AttackSettings(steps=4, relative_step_size=0.5)
    counts = evaluate(
        net,
        loader,
        EvaluationPlan(
            device="cpu", precision="float32", num_classes=K, views=VIEWS, attack=attack, eps=0.8
        ),
    )
    small = copy.deepcopy(net)
    small.head = torch.nn.Linear(net.head.in_features, len(COMMON))
    small.head.load_state_dict(
        {name: value[list(COMMON)] for name, value in net.head.state_dict().items()}
    )
    counted = [index for index, label in enumerate(loader.labels.tolist()) if label in COMMON]
    labels = torch.tensor([COMMON.index(int(loader.labels[index])) for index in counted])
    images = loader.images[counted]
    moved = pgd(small, images / 255, labels, norm="l2", eps=0.8, steps=4, step_size=0.4)
    expected = slow_scores(net, moved, loader.labels[counted].numpy(), VIEWS["masked"])
    assert counts["masked"].scores() == pytest.approx(expected, rel=1e-4)
    unmasked = pgd(
        net, loader.images / 255, loader.labels, norm="l2", eps=0.8, steps=4, step_size=0.4
    )
    for name in ("own", "unmasked"):
        of_all = slow_scores(net, unmasked, loader.labels.numpy(), VIEWS[name])
        assert counts[name].scores() == pytest.approx(of_all, rel=1e-4)


class Rows(torch.nn.Module):
    """Logits of three classes that are linear in two pixel values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 40.0]]))
        self.bias = torch.nn.Parameter(torch.tensor([0.0, -4.4, -21.0]))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2].to(self.weight.dtype) @ self.weight.T + self.bias


class OneImage(FakeLoader):
    """Loader of one image of class 0 with gray pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.num_samples = 1

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        yield iter([(torch.full((1, 3, 1, 1), 128, dtype=torch.uint8), torch.zeros(1).long())])


@pytest.mark.parametrize(("attacked_logits", "top1"), [("scored", 0.0), ("all", 1.0)])
def test_an_attack_on_other_logits_flatters_the_masked_view(attacked_logits, top1):
    """The logit of class 2 misleads an attack on all logits.

    A search over the ball finds images that the view with classes 0 and 1 misclassifies.
    """
    model, view, eps = Rows(), View(labels=(0, 1), logits=(0, 1)), 0.1
    angles = torch.linspace(0, 2 * torch.pi, 1000)
    ball = 128 / 255 + eps * torch.stack([angles.cos(), angles.sin(), 0 * angles], 1)
    logits = model(ball[..., None, None])
    assert (logits[:, 1] > logits[:, 0]).any(), (
        "some image in the ball must change the masked prediction"
    )
    counts = evaluate(
        model,
        OneImage(),
        EvaluationPlan(
            device="cpu",
            precision="float32",
            num_classes=3,
            views={"masked": view},
            attack=AttackSettings(steps=10),
            eps=eps,
            attacked_logits=attacked_logits,
        ),
    )
    assert counts["masked"].scores()["top1"] == top1


@pytest.mark.parametrize("by", ["sum", "max"])
def test_coarse_views_are_attacked_on_coarse_logits(net, by):
    groups = (0, 0, 1, 1, 2, 2, 2)
    view = View(groups=groups, by=by)
    loader, attack = FakeLoader(), AttackSettings(steps=4, relative_step_size=0.5)
    losses = {
        attacked: evaluate(
            net,
            loader,
            EvaluationPlan(
                device="cpu",
                precision="float32",
                num_classes=K,
                views={"coarse": view},
                attack=attack,
                eps=0.8,
                attacked_logits=attacked,
            ),
        )["coarse"].scores()["loss"]
        for attacked in ("scored", "all")
    }
    assert losses["scored"] > losses["all"]


def test_evaluation_restores_the_model_and_is_repeatable(net):
    modes = {name: module.training for name, module in net.named_modules()}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attack = AttackSettings(steps=1, random_start="ball")
    first, second = (
        evaluate(
            net,
            FakeLoader(),
            EvaluationPlan(
                device="cpu", precision="bf16", num_classes=K, views=VIEWS, attack=attack, eps=0.5
            ),
        )
        for _ in range(2)
    )
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert {name: count.scores() for name, count in first.items()} == {
        n: count.scores() for n, count in second.items()
    }


def test_module_modes_are_restored_when_the_loader_fails(net):
    class Broken(FakeLoader):
        @contextmanager
        def epoch(self, epoch: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
            yield (1 / 0 for _ in range(1))

    with pytest.raises(ZeroDivisionError):
        evaluate(
            net,
            Broken(),
            EvaluationPlan(device="cpu", precision="float32", num_classes=K, views=VIEWS),
        )
    assert net.training and not net.backbone.stage3.training


def test_a_loader_that_drops_images_is_refused(net):
    with pytest.raises(AssertionError, match="drop_last"):
        evaluate(
            net,
            FakeLoader(num_samples=N + 1),
            EvaluationPlan(device="cpu", precision="float32", num_classes=K, views=VIEWS),
        )


def test_a_view_must_include_the_logits_of_its_labels():
    for labels in (None, (1, 2)):
        with pytest.raises(AssertionError):
            View(labels=labels, logits=(1, 3))
