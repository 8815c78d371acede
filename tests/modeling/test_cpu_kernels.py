"""Convolutions for which torch has wrong CPU kernels are computed correctly in all cases."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling import classifier
from harness.modeling.cpu_kernels import SafeConvolutions, may_be_affected
from harness.modeling.precision import autocast
from harness.profiling.timer import Timer
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, make_step


def with_gradients(images: Tensor, weight: Tensor, bias: Tensor | None, **how: Any) -> list[Tensor]:
    """Convolve; return the output and the gradients of the sum of its squares.

    The gradients are those by images, weight and, unless it is None, bias.
    """
    inputs = [tensor for tensor in (images, weight, bias) if tensor is not None]
    output = functional.conv2d(images, weight, bias, **how)
    return [output, *torch.autograd.grad(output.float().pow(2).sum(), inputs)]


@pytest.mark.parametrize(
    ("shape", "out", "kernel", "how"),
    [
        ((13, 8, 12, 12), 8, 1, {"stride": 2}),
        ((13, 8, 12, 12), 8, 1, {"stride": (2, 2), "padding": (0,)}),
        ((3, 3, 11, 8), 64, 1, {"stride": (2, 3)}),
        ((3, 32, 7, 7), 8, 1, {"stride": 2}),
        ((2, 8, 7, 6), 12, 1, {"stride": 2, "groups": 2, "dilation": 3}),
        ((2, 8, 7, 6), 8, 1, {"stride": (1, 2), "padding": (2, 1)}),
        ((2, 8, 6, 6), 8, 1, {"stride": 1, "padding": "same"}),
        ((2, 8, 6, 6), 8, 1, {"stride": 2, "padding": "valid"}),
        ((2, 32, 6, 6), 32, 1, {"stride": 2}),
        ((2, 8, 6, 6), 8, 3, {"stride": 2, "padding": 1}),
        ((2, 32, 1, 1), 32, 3, {"stride": 2, "padding": 1}),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_every_geometry_equals_the_reference(shape, out, kernel, how, biased):
    torch.manual_seed(0)
    images = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(out, shape[1] // how.get("groups", 1), kernel, kernel).requires_grad_()
    bias = torch.randn(out).requires_grad_() if biased else None
    with SafeConvolutions():
        results = with_gradients(images, weight, bias, **how)
    exact = [None if one is None else one.detach().double() for one in (images, weight, bias)]
    exact = [None if one is None else one.requires_grad_() for one in exact]
    for ours, true in zip(results, with_gradients(*exact, **how), strict=True):
        assert ours.shape == true.shape and ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-4)


class Convolutions(TorchDispatchMode):
    """Record shapes, strides and dtypes of all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Size, torch.Size, int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in (torch.ops.aten.convolution, torch.ops.aten._convolution):
            self.seen.append((args[0].shape, args[1].shape, max(args[3]), args[0].dtype))
        return func(*args, **(kwargs or {}))


class Foreign(nn.Module):
    """A network like those of other libraries, with a narrow strided convolution as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.conv2d(input=images.float() / 255, weight=self.weight, stride=2)
        return self.head(functional.relu(seen).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "affected"),
    [
        (lambda: classifier.build("resnet10", 3, channels=(16, 16, 16, 16)), False),
        (lambda: classifier.build("resnet10", 3, channels=(16, 16, 8, 16)), True),
        (lambda: classifier.build("resnet18", 3), False),
        (lambda: nn.Sequential(nn.Conv2d(32, 8, 1, stride=(1, 2)), nn.BatchNorm2d(8)), True),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 1)), False),
        # A module with its own weights counts as affected, because it is not analyzed.
        (
            lambda: nn.Sequential(nn.ReLU(), Foreign()),
            True,
        ),
    ],
)
def test_only_unaffected_networks_skip_the_workaround(model, affected):
    assert may_be_affected(model()) is affected
    with autocast("float32", "cpu", model()):
        assert bool(_get_current_function_mode_stack()) is affected
    for precision, unknown in (
        ("float32", None),
        ("float32", lambda images: images),
        ("bf16", None),
    ):
        with autocast(precision, "cpu", unknown):
            assert _get_current_function_mode_stack(), "unknown models must count as affected"


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_a_training_step_uses_no_convolution_that_may_be_wrong(foreign, precision, eps):
    torch.manual_seed(0)
    model = Foreign() if foreign else classifier.build("resnet10", 3, channels=(8, 8, 16, 16))
    config = StepConfig(0.1, precision=precision, eps=eps, attack=AttackSettings(steps=1))
    optimizer = make_sgd(model, ScheduleSettings(), 0.1)
    step = make_step(model.train(), optimizer, config, Timer("cpu"))
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    with Convolutions() as computed:
        step.train_batch(images.to(memory_format=torch.channels_last), torch.tensor([0, 1, 2, 0]))
    assert len(computed.seen) == (1 if foreign else 12) * (1 if eps == 0 else 2)
    pixels = 0
    for images_shape, weight_shape, stride, dtype in computed.seen:
        if weight_shape[2:] == (1, 1) and min(weight_shape[:2]) < 16:
            assert stride == 1
        if weight_shape[2:] == (3, 3) and min(images_shape[2:]) == 1 and stride > 1:
            pixels += 1
            assert dtype == torch.float32
    assert foreign or pixels, "some strided convolution must have an input of one pixel"


def test_padding_by_name_of_a_narrow_convolution_is_supported():
    images, weight = torch.randn(2, 8, 6, 6), torch.randn(8, 8, 1, 1)
    with Convolutions() as computed, autocast("float32", "cpu"):
        functional.conv2d(images, weight, stride=2, padding="valid")
    assert [stride for _, _, stride, _ in computed.seen] == [1]


def test_bf16_convolutions_on_one_pixel_return_bf16_of_the_right_value():
    weight, images = torch.randn(32, 32, 3, 3), torch.randn(2, 32, 1, 1)
    with autocast("bf16", "cpu"):
        for stride in (1, 2):
            output = functional.conv2d(images, weight, stride=stride, padding=1)
            assert output.dtype == torch.bfloat16
    torch.testing.assert_close(
        output.float(), functional.conv2d(images, weight, stride=2, padding=1), rtol=0.01, atol=0.05
    )
    assert functional.conv2d(images, weight, padding=1).dtype == torch.float32, (
        "must be unchanged outside"
    )
