"""Parameters with and without weight decay, and SGD steps against the textbook formula."""

import pytest
import torch
from torch import nn

from harness.config.train import ScheduleSettings
from harness.modeling import classifier
from harness.train.optimizer import make_sgd, set_lr


def names_of(model: nn.Module, optimizer: torch.optim.SGD, decay: float) -> set[str]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name_of[id(parameter)]
        for group in optimizer.param_groups
        if group["weight_decay"] == decay
        for parameter in group["params"]
    }


def test_norms_and_the_bias_of_resnet18_do_not_decay():
    model = classifier.build("resnet18", 10)
    optimizer = make_sgd(model, ScheduleSettings(weight_decay=1e-4), 0.1)
    undecayed, decayed = names_of(model, optimizer, 0.0), names_of(model, optimizer, 1e-4)
    assert len(undecayed) == 20 * 2 + 1
    assert {"head.bias", "backbone.layer2.0.downsample.1.weight"} <= undecayed
    assert len(decayed) == 20 + 1 and "head.weight" in decayed
    assert undecayed | decayed == {name for name, _ in model.named_parameters()}


def test_everything_decays_with_decay_norm_and_bias():
    model = classifier.build("resnet18", 10)
    optimizer = make_sgd(model, ScheduleSettings(weight_decay=5e-4, decay_norm_and_bias=True), 0.1)
    assert len(names_of(model, optimizer, 5e-4)) == 62 and len(optimizer.param_groups) == 1


def test_frozen_parameters_are_left_out_and_shared_ones_appear_once():
    model = classifier.build("resnet10", 10, channels=(16, 16, 16, 16))
    model.backbone.requires_grad_(False)
    optimizer = make_sgd(model, ScheduleSettings(), 0.1)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(model.head.weight),
        id(model.head.bias),
    }
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert (
        sum(len(group["params"]) for group in make_sgd(tied, ScheduleSettings(), 0.1).param_groups)
        == 3
    )
    with pytest.raises(AssertionError):
        make_sgd(model.backbone, ScheduleSettings(), 0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_equal_the_textbook_formula(nesterov):
    """w <- w - lr * v, v <- momentum * v + g + decay * w; Nesterov as in Sutskever et al. 2013."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    settings = ScheduleSettings(momentum=0.8, nesterov=nesterov, weight_decay=0.1)
    optimizer = make_sgd(layer, settings, 0.5)
    expected = {name: value.detach().clone() for name, value in layer.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    for lr in (0.5, 0.25, 0.125):
        set_lr(optimizer, lr)
        for name, parameter in layer.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            pull = parameter.grad + (0.1 * expected[name] if name == "weight" else 0)
            velocity[name] = 0.8 * velocity[name] + pull
            expected[name] = expected[name] - lr * (
                pull + 0.8 * velocity[name] if nesterov else velocity[name]
            )
        optimizer.step()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parameter, expected[name])
