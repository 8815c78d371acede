"""The attack does not change the model, its statistics or the images, also if it fails."""

import copy

import pytest
import torch
from torch.nn import functional

from harness.train.attack import pgd
from tests.helpers.attacked_networks import K


def test_pgd_changes_neither_model_nor_images(net, batch):
    images, labels = batch
    net.backbone.stage2.eval()
    net.head.weight.requires_grad_(False)
    functional.cross_entropy(net(images), labels).backward()

    def state() -> dict[str, object]:
        return {
            "modes": {name: module.training for name, module in net.named_modules()},
            "needs": {name: parameter.requires_grad for name, parameter in net.named_parameters()},
            "tensors": {name: value.clone() for name, value in net.state_dict().items()},
            "grads": {
                name: None if p.grad is None else p.grad.clone()
                for name, p in net.named_parameters()
            },
        }

    before, kept = state(), images.clone()
    pgd(
        net,
        images,
        labels,
        norm="l2",
        eps=1.0,
        steps=2,
        step_size=0.5,
        best_iterate=True,
        random_start=True,
    )
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert torch.equal(images, kept) and not images.requires_grad


def test_the_attack_uses_evaluation_mode_and_gradients_of_pixels_only(net, batch):
    seen = []
    net.register_forward_hook(
        lambda model, _, __: seen.append(
            any(module.training for module in model.modules())
            or any(p.requires_grad for p in model.parameters())
        )
    )
    pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5, best_iterate=True)
    assert seen == [False] * 3


def test_the_model_is_restored_when_the_attack_fails(net, batch):
    with pytest.raises(IndexError):
        pgd(net, batch[0], batch[1] + K, norm="l2", eps=1.0, steps=1, step_size=0.5)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())


def test_pgd_works_under_no_grad(net, batch):
    with torch.no_grad():
        inside = pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5)
    assert torch.equal(inside, pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5))


def test_batch_norm_train_uses_batch_statistics_without_updating_running_ones(smooth_net, batch):
    """Dropout is off. A BatchNorm layer in evaluation mode uses its running statistics."""
    net, (images, labels) = smooth_net, batch
    net.backbone.stage2.bn1.eval()  # frozen, as transfer methods may do
    before = {name: value.clone() for name, value in net.state_dict().items()}
    moved = pgd(net, images, labels, norm="l2", eps=1.0, steps=1, step_size=0.5, batch_norm="train")
    after = net.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert net.backbone.stem[1].track_running_stats
    assert net.training
    assert not net.backbone.stage2.bn1.training

    twin = copy.deepcopy(net)
    twin.backbone.dropout.eval()
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        functional.cross_entropy(twin(variable), labels, reduction="sum"), variable
    )
    step = gradient * (0.5 / gradient.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    # The step and its sum with the pixel are each rounded to float32.
    torch.testing.assert_close(moved, (images + step).clamp(0, 1), rtol=0, atol=1e-6)
    in_eval = pgd(net, images, labels, norm="l2", eps=1.0, steps=1, step_size=0.5)
    assert not torch.allclose(moved, in_eval, atol=1e-3)  # statistics matter far more than rounding


def test_batch_norm_is_restored_when_the_attack_fails(net, batch):
    with pytest.raises(IndexError):
        pgd(
            net,
            batch[0],
            batch[1] + K,
            norm="l2",
            eps=1.0,
            steps=1,
            step_size=0.5,
            batch_norm="train",
        )
    assert net.backbone.stem[1].track_running_stats and net.backbone.stem[1].training
