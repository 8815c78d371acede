"""The attack in half precision: scaled gradients, steps close to float32, data types."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.modeling import classifier
from harness.train.attack import pgd
from tests.helpers.attacked_networks import build_network


class ConfidentModel(nn.Module):
    """A confident half-precision model whose pixel gradients underflow.

    The gradients of both logits are 1 - p = 1e-4 in size, and each logit contributes 1e-4 of its
    gradient to a pixel's. The sum is 2e-8, which float16 rounds to zero.
    """

    def forward(self, images: Tensor) -> Tensor:
        total = (images.half() * 1e-4).flatten(1).sum(1)
        return torch.stack([total + 9.2, -total], 1)


def test_fp16_scaling_prevents_gradients_from_underflowing(monkeypatch):
    images, labels = torch.full((3, 3, 4, 4), 0.5), torch.tensor([0, 0, 1])
    counter = torch.tensor(0)
    attack = partial(
        pgd,
        ConfidentModel(),
        images,
        labels,
        norm="l2",
        eps=0.1,
        steps=2,
        step_size=0.1,
        precision="fp16",
        zero_gradients=counter,
    )
    moved = attack()
    assert counter == 0
    assert torch.allclose((moved - images).flatten(1).norm(dim=1), torch.tensor(0.1))
    assert (moved[:2] < images[:2]).all() and (moved[2] > images[2]).all()
    monkeypatch.setattr("harness.train.attack._fp16_scale", torch.ones_like)
    still = attack()
    assert counter == 2 * 2 and torch.equal(still[:2], images[:2]), (
        "without scaling, the gradients must underflow"
    )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fp16_steps_approximate_float32_steps(batch, norm):
    eps = {"l2": 1.0, "linf": 0.03}[norm]
    net = build_network(smooth=True)
    exact, low = (
        pgd(net, *batch, norm=norm, eps=eps, steps=1, step_size=eps / 2, precision=precision)
        for precision in ("float32", "fp16")
    )
    moves = [(images - batch[0]).flatten(1) for images in (exact, low)]
    # float16 has 11 significant bits. Under linf, the sign of small gradients may differ.
    assert (functional.cosine_similarity(*moves) > {"l2": 0.999, "linf": 0.95}[norm]).all()


@pytest.mark.parametrize("start", ["none", "ball"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_convolution_of_the_attack_is_in_bf16_and_channels_last(norm, start):
    torch.manual_seed(0)
    model = classifier.build("resnet10", 5, channels=(16, 16, 16, 16)).eval()
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: seen.append(
                    (output.dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
                )
            )
    images = torch.rand(4, 3, 24, 24).to(memory_format=torch.channels_last)
    pgd(
        model,
        images,
        torch.arange(4),
        norm=norm,
        eps=0.5,
        steps=2,
        step_size=0.3,
        random_start=start,
        best_iterate=True,
        precision="bf16",
    )
    assert len(seen) >= 3 * 9 and set(seen) == {(torch.bfloat16, True)}
