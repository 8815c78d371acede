"""Methods that train a network: start values, trained weights, learning rates, L2-SP."""

import copy

import pytest
import torch
from torch import nn

from harness.config import grid
from harness.config.methods import settings_model
from harness.modeling import classifier
from harness.modeling.blocks import blocks_of, stages_of
from harness.transfer.method import find
from harness.transfer.methods import _network
from tests.transfer.test_methods import make_setup, train, trained
from writers.errors import UserError

PLAIN = {"schedule": "constant", "momentum": 0.9}
PLAIN_WITHOUT_DECAY = {**PLAIN, "weight_decay": 0.0}
CONVOLUTIONS = (nn.Conv2d, nn.Linear)


def start_of(method: str, setup):
    """Return the untrained model of a method's first trial, and the learner that trains it."""
    trained = find(method).candidates(setup, grid.trials(setup.settings)[:1])
    return trained.models()[0][1], trained.learner


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("start_groups", "num_low", "reinit_last"),
    [("both", 0, 0), ("low", 2, 1), ("high", 2, 0), ("none", 1, 0)],
)
def test_l2sp_equals_the_gradient_of_the_penalty(start_groups, num_low, reinit_last):
    alpha, beta = 0.3, 0.05
    setup = make_setup(
        "l2sp",
        "update",
        (0.1,),
        optimizer=PLAIN,
        alpha=alpha,
        beta=beta,
        start_groups=start_groups,
        num_low=num_low,
        reinit_last=reinit_last,
    )
    model, learner = start_of("l2sp", setup)
    plain = copy.deepcopy(model)
    start = {name: value.detach().clone() for name, value in plain.named_parameters()}
    low, high = (
        [f"backbone.{name}." for name in ("stem", "stage1", "stage2", "stage3", "stage4")][
            :num_low
        ],
        [f"backbone.{name}." for name in ("stem", "stage1", "stage2", "stage3", "stage4")][
            num_low : 5 - reinit_last
        ],
    )
    kept = tuple(
        (low if start_groups in ("both", "low") else [])
        + (high if start_groups in ("both", "high") else [])
    )
    pulled = {
        f"{name}.weight"
        for name, module in plain.named_modules()
        if isinstance(module, CONVOLUTIONS)
    }

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.07, momentum=0.9)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        images = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 3, (6,), generator=generator)
        loss = nn.functional.cross_entropy(
            plain.train()(images.to(memory_format=torch.channels_last)), labels
        )
        for name, weight in plain.named_parameters():
            if name in pulled:
                loss = loss + (
                    alpha / 2 * (weight - start[name]).square().sum()
                    if kept and name.startswith(kept)
                    else beta / 2 * weight.square().sum()
                )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    train(learner, 3)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        # Three steps amplify float32 rounding. The largest difference seen was 2.5e-7.
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-6, msg=name)
    far = make_setup("l2sp", "update", (0.1,), optimizer=PLAIN, alpha=0.0, beta=0.0)
    assert changed(trained("l2sp", far)[0.1].state_dict(), model.state_dict()), (
        "the penalty must change the weights"
    )


def test_l2sp_without_penalty_equals_full_without_weight_decay():
    one = trained(
        "l2sp", make_setup("l2sp", "update", (0.1,), optimizer=PLAIN, alpha=0.0, beta=0.0)
    )[0.1]
    other = trained("full", make_setup("full", "update", (0.1,), optimizer=PLAIN_WITHOUT_DECAY))[
        0.1
    ]
    assert not changed(one.state_dict(), other.state_dict())


def test_l2sp_has_no_weight_decay():
    _, learner = start_of("l2sp", make_setup("l2sp", "update"))  # the default is 5e-4
    assert {group["weight_decay"] for group in learner.optimizer.param_groups} == {0.0}


def test_scratch_ignores_the_source():
    one, other = (
        trained("scratch", make_setup("scratch", "update", (0.1,), source_seed=seed))[0.1]
        for seed in (0, 9)
    )
    assert not changed(one.state_dict(), other.state_dict())
    full = [
        trained("full", make_setup("full", "update", (0.1,), source_seed=seed))[0.1]
        for seed in (0, 9)
    ]
    assert changed(full[0].state_dict(), full[1].state_dict())


@pytest.mark.parametrize("train_from", [1, 3, 4])
def test_partial_keeps_frozen_stages_and_trains_all_others(train_from):
    setup = make_setup("partial", "update", (0.1,), train_from=train_from)
    start, model = setup.load().state_dict(), trained("partial", setup)[0.1]
    moved = changed(start, model.state_dict())
    stages = ["stem", *(f"stage{number}" for number in range(1, 5))]
    frozen = {
        name
        for name in start
        if name.startswith(tuple(f"backbone.{stage}." for stage in stages[:train_from]))
    }
    constant = {"mean", "std"}
    assert not moved & frozen, "neither parameters nor BatchNorm buffers may change"
    assert moved == set(start) - frozen - constant


def test_partial_lists_the_stages_if_train_from_is_too_high():
    with pytest.raises(UserError, match=r"train_from is 5; the network has 5 stages"):
        start_of("partial", make_setup("partial", "update", (0.1,), train_from=5))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_reinit_last_resets_only_the_last_blocks(count):
    setup = make_setup("full", "update", (0.1,), reinit_last=count)
    start, model = setup.load().state_dict(), start_of("full", setup)[0].state_dict()
    random = setup.scratch().state_dict()
    names = ["stem", "stage1", "stage2", "stage3", "stage4"][-count:]
    new = tuple(f"backbone.{name}." for name in names)
    assert changed(start, model) == {
        name for name in changed(start, random) if name.startswith(new)
    }
    assert all(torch.equal(model[name], random[name]) for name in model if name.startswith(new))
    with pytest.raises(UserError, match="the network has 5 blocks"):
        start_of("full", make_setup("full", "update", (0.1,), reinit_last=3, num_low=3))


def test_learning_rates_by_group_and_layer():
    setup = make_setup(
        "full",
        "update",
        (0.1,),
        num_low=2,
        low_lr_ratio=0.1,
        high_lr_ratio=0.5,
        reinit_last=1,
        layer_decay=0.8,
    )
    model, learner = start_of("full", setup)
    learner.set_rate(0.5)
    rates = {
        parameter: float(group["lr"])
        for group in learner.optimizer.param_groups
        for parameter in group["params"]
    }
    ratios = {
        "stem": 0.1 * 0.8**5,
        "stage1": 0.1 * 0.8**4,
        "stage2": 0.5 * 0.8**3,
        "stage3": 0.5 * 0.8**2,
        "stage4": 0.8,
    }
    for name, parameter in model.named_parameters():
        expected = 0.05 * (1.0 if name.startswith("head.") else ratios[name.split(".")[1]])
        assert rates[parameter] == pytest.approx(expected), name
    still = trained("full", make_setup("full", "update", (0.1,), num_low=2, low_lr_ratio=0.0))[
        0.1
    ].state_dict()
    moved = changed(setup.load().state_dict(), still)
    assert not {
        name
        for name in moved
        if name.startswith(("backbone.stem.", "backbone.stage1."))
        and "running_" not in name
        and "num_batches" not in name
    }


def test_every_parameter_group_has_its_weight_decay_and_is_restored():
    setup = make_setup(
        "full",
        "update",
        (0.1,),
        num_low=1,
        low_lr_ratio=0.1,
        optimizer={"weight_decay": 1e-3},
    )
    model, learner = start_of("full", setup)
    decayed = {
        parameter
        for group in learner.optimizer.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    }
    assert decayed == {
        module.weight for module in model.modules() if isinstance(module, CONVOLUTIONS)
    }
    assert len(learner.optimizer.param_groups) == 4
    other_model, other = start_of("full", setup)
    train(learner)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for one in (learner, other):
        train(one)
    assert not changed(model.state_dict(), other_model.state_dict())


@pytest.mark.parametrize(
    ("setting", "steps_per_epoch", "expected"),
    [("kornblith", 4, 0.1), ("kornblith", 400, 0.025), (0.01, 4, 0.01), (None, 400, 0.1)],
)
def test_batch_norm_momentum_follows_the_setting(setting, steps_per_epoch, expected):
    model = classifier.build("resnet10", 3, channels=(16, 16, 16, 16))
    _network.set_bn_momentum(model, setting, steps_per_epoch)
    assert {
        module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    } == {expected}


def test_blocks_have_the_same_names_as_those_of_timm():
    timm = pytest.importorskip("timm")
    ours = blocks_of(classifier.build("torchvision/resnet18", 2).backbone)
    theirs = blocks_of(timm.create_model("resnet18", num_classes=0))
    assert [set(block.names) for block in ours] == [set(block.names) for block in theirs]
    assert [
        len(stage) for stage in stages_of(classifier.build("torchvision/resnet18", 2).backbone, 224)
    ] == [1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("arch", "num_blocks", "stages"),
    [
        ("resnet10", 5, [1] * 5),
        ("torchvision/mobilenet_v3_small", 14, [1, 1, 2, 3, 2, 3, 1, 1]),
        ("torchvision/squeezenet1_1", 10, None),
        ("timm/vit_tiny_patch16_224", 13, [1] * 13),
        ("torchvision/googlenet", 12, None),
    ],
)
def test_blocks_cover_a_network_in_order(arch, num_blocks, stages):
    backbone = classifier.build(arch, 2).backbone
    blocks = blocks_of(backbone)
    names = [name for block in blocks for name in block.names]
    assert sorted(names) == sorted(backbone.state_dict()) and len(blocks) == num_blocks
    found_stages = stages_of(backbone, 224)
    assert [block for stage in found_stages for block in stage] == blocks
    assert stages is None or [len(stage) for stage in found_stages] == stages
    assert backbone.training, "the mode must be restored"


def test_each_trial_of_a_grid_has_its_settings():
    settings = settings_model("full").model_validate(
        {"grid": {"lr": [0.1, 0.01], "decay_ratio": [0, 1e-3], "layer_decay": [0.5]}}
    )
    trials = grid.trials(settings)
    assert [trial.point for trial in trials] == [
        {"lr": lr, "decay_ratio": ratio, "layer_decay": 0.5}
        for lr in (0.1, 0.01)
        for ratio in (0, 1e-3)
    ]
    assert [trial.settings.optimizer.weight_decay for trial in trials] == pytest.approx(
        [0, 0.01, 0, 0.1]
    )
    assert {trial.settings.layer_decay for trial in trials} == {0.5}
    assert [trial.lr for trial in trials] == [0.1, 0.1, 0.01, 0.01]
