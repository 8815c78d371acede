"""Weights and statistics that each method changes, and heads that share a backbone."""

import copy

import pytest
import torch

from harness.config import grid
from harness.config.methods import settings_model
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.profiling.timer import Timer
from harness.transfer.method import TransferSetup, find
from harness.transfer.methods._shared_backbone import SharedBackbone
from writers.errors import UserError


def make_setup(
    method: str,
    bn_stats: str,
    lrs: tuple[float, ...] = (0.1, 0.01),
    *,
    source_seed: int = 0,
    **settings,
) -> TransferSetup:
    torch.manual_seed(source_seed)
    source = classifier.build("resnet10", 5, channels=(16, 16, 16, 16))

    def with_head(model):
        classifier.replace_head(model, 3, torch.Generator().manual_seed(1))
        return model

    def scratch():
        torch.manual_seed(3)
        return with_head(classifier.build("resnet10", 3, channels=(16, 16, 16, 16)))

    return TransferSetup(
        lambda: with_head(copy.deepcopy(source)),
        scratch,
        settings_model(method).model_validate({"lrs": lrs, **settings}),
        bn_stats,
        4,
        "cpu",
        "float32",
        Timer("cpu"),
    )


def trained(method: str, setup: TransferSetup, num_steps: int = 3) -> dict[float, Classifier]:
    """Train the trials of a method for a few steps; return learning rate -> trained model."""
    transfer_method = find(method)
    trials = grid.trials(setup.settings)
    turns = [trials] if setup.settings.TRAINS_TOGETHER else [[trial] for trial in trials]
    models_of = {}
    for turn in turns:
        candidates = transfer_method.candidates(setup, turn)
        train(candidates.learner, num_steps)
        models_of |= {trial.lr: model for trial, model in candidates.models()}
    return models_of


def train(learner, num_steps: int = 3):
    generator = torch.Generator().manual_seed(2)
    for _ in range(num_steps):
        images = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=generator)
        learner.set_rate(0.7)
        learner.train_batch(
            images.to(memory_format=torch.channels_last),
            torch.randint(0, 3, (6,), generator=generator),
        )
    return learner


def moved(setup: TransferSetup, model) -> tuple[bool, bool, bool]:
    """Return three flags: backbone weights, BatchNorm statistics and head differ from the start."""
    start, now = setup.load().state_dict(), model.state_dict()
    changed = {name for name in start if not torch.equal(start[name], now[name])}
    statistics = {name for name in changed if "running_" in name}
    head = {name for name in changed if name.startswith("head.")}
    return (
        bool(changed - statistics - head - {name for name in changed if "num_batches" in name}),
        bool(statistics),
        bool(head),
    )


@pytest.mark.parametrize(
    ("method", "bn_stats", "expected"),
    [
        ("fixed", "frozen", (False, False, True)),
        ("fixed", "update", (False, True, True)),
        ("full", "frozen", (True, False, True)),
        ("full", "update", (True, True, True)),
    ],
)
def test_each_method_changes_its_part_of_the_model(method, bn_stats, expected):
    setup = make_setup(method, bn_stats)
    seen = {lr: moved(setup, model) for lr, model in trained(method, setup).items()}
    assert seen == {0.1: expected, 0.01: expected}


@pytest.mark.parametrize("bn_stats", ["frozen", "update"])
def test_heads_on_a_shared_backbone_equal_heads_trained_alone(bn_stats):
    lrs = (0.5, 0.1, 0.001)
    shared = trained("fixed", make_setup("fixed", bn_stats, lrs), 5)
    for lr in lrs:
        alone = trained("fixed", make_setup("fixed", bn_stats, (lr,)), 5)[lr].state_dict()
        for name, value in shared[lr].state_dict().items():
            if name.startswith("head."):  # float32 sums in another order
                assert torch.allclose(value, alone[name], rtol=1e-5, atol=1e-6), name
            else:
                assert torch.equal(value, alone[name]), name


@pytest.mark.parametrize("bn_stats", ["frozen", "update"])
def test_a_shared_backbone_equals_a_plain_loop_over_the_head(bn_stats):
    setup = make_setup("fixed", bn_stats, (0.1,))
    model = trained("fixed", setup)[0.1]

    plain = setup.load().train(bn_stats == "update")
    weight, bias = plain.head.weight.detach().clone(), plain.head.bias.detach().clone()
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        images = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 3, (6,), generator=generator)
        with torch.no_grad():
            features = plain.features(images)
        slope = (
            torch.softmax(features @ weight.T + bias, 1) - torch.nn.functional.one_hot(labels, 3)
        ) / 6
        gradients = [slope.T @ features + 5e-4 * weight, slope.sum(0) + 5e-4 * bias]
        for number, (parameter, gradient) in enumerate(zip((weight, bias), gradients, strict=True)):
            velocity[number] = 0.9 * velocity[number] + gradient
            parameter -= 0.07 * velocity[number]
    assert torch.allclose(model.head.weight, weight, atol=1e-6)  # float32; 3e-8 was measured
    assert torch.allclose(model.head.bias, bias, atol=1e-6)
    statistics = dict(plain.backbone.named_buffers())
    assert statistics
    assert all(
        torch.allclose(buffer, statistics[name]) for name, buffer in model.backbone.named_buffers()
    )


@pytest.mark.parametrize("bn_stats", ["frozen", "update"])
def test_a_shared_backbone_resumes_exactly(bn_stats):
    setup = make_setup("fixed", bn_stats)
    whole, begun, resumed = (SharedBackbone(setup, grid.trials(setup.settings)) for _ in range(3))
    generator = torch.Generator().manual_seed(4)
    batches = [
        (
            torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (6,), generator=generator),
        )
        for _ in range(4)
    ]
    for number, batch in enumerate(batches):
        if number == 2:
            resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
        for learner in (whole, begun if number < 2 else resumed):
            learner.set_rate(0.7)
            learner.train_batch(*batch)
    for (_, one), (_, other) in zip(whole.candidates(), resumed.candidates(), strict=True):
        assert all(
            torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
        )


def test_an_unknown_method_is_refused_with_similar_names():
    with pytest.raises(UserError, match="fixed"):
        find("fixd")
