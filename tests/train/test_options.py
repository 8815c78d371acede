"""Training options: BlurPool, EMA, flip averaging, fast and free attacks, accumulation."""

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor, nn
from torch.nn import functional

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling import classifier
from harness.modeling.blur_pool import BlurredConv2d, add_blur_pool
from harness.profiling.timer import Timer
from harness.train.flip_tta import FlipAverage
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, make_step
from tests.helpers.smooth_networks import make_float64, make_smooth
from writers.errors import UserError

K = 5
CHANNELS = (16, 16, 16, 16)


def network(seed: int = 0) -> classifier.Classifier:
    torch.manual_seed(seed)
    return classifier.build("resnet10", K, channels=CHANNELS)


def batches(num: int, size: int = 6, side: int = 24) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator).to(
                memory_format=torch.channels_last
            ),
            torch.randint(0, K, (size,), generator=generator),
        )
        for _ in range(num)
    ]


def stepper(model: nn.Module, eps: float = 0.0, **more):
    optimizer = make_sgd(model, ScheduleSettings(weight_decay=0), 0.1)
    attack = AttackSettings(**more.pop("attack", {}))
    config = StepConfig(0.1, attack=attack, eps=eps, **more)
    return make_step(model.train(), optimizer, config, Timer("cpu"))


def test_blur_pool_applies_the_binomial_filter_before_the_convolution():
    """The reference filters with scipy and zero padding, then convolves with torch."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 4, 3, stride=2, padding=1)
    blurred = nn.Sequential(copy.deepcopy(plain))
    assert add_blur_pool(blurred) == 1
    images = torch.rand(2, 16, 9, 10)
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None, None] / 16
    expected = plain(
        torch.from_numpy(
            convolve(images.numpy().astype(np.float64), kernel, mode="constant")
        ).float()
    )
    assert torch.allclose(blurred(images), expected, atol=1e-6)  # float32 sums in another order


def test_blur_pool_blurs_strided_convolutions_of_resnet18_except_the_first():
    torch.manual_seed(0)
    model, plain = classifier.build("resnet18", K, blur_pool=True), classifier.build("resnet18", K)
    blurred = [
        name for name, module in model.backbone.named_modules() if isinstance(module, BlurredConv2d)
    ]
    assert blurred == [
        f"layer{stage}.0.{part}" for stage in (2, 3, 4) for part in ("conv1", "downsample.0")
    ]
    plain.load_state_dict(model.state_dict())  # the same names and shapes
    images = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(plain.eval()(images), model.eval()(images))


def test_a_loaded_model_has_its_blur_pool(tmp_path):
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=CHANNELS, blur_pool=True).eval()
    classifier.save(
        tmp_path / "model.pt",
        model,
        {"arch": "resnet10", "channels": list(CHANNELS), "blur_pool": True},
    )
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(classifier.load(tmp_path / "model.pt")[0].eval()(images), model(images))


def test_blur_pool_without_effect_is_refused():
    with pytest.raises(UserError, match="blur_pool has no effect on resnet10"):
        classifier.build("resnet10", K, channels=(8, 8, 8, 8), blur_pool=True)


def test_ema_equals_the_formula_and_the_model_keeps_its_own_weights():
    model = network()
    mean = {name: value.clone() for name, value in model.state_dict().items()}
    step = stepper(model, ema_decay=0.6)
    for number, batch in enumerate(batches(6)):
        step.train_batch(*batch)
        decay = min(0.6, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            mean[name] = (
                decay * mean[name] + (1 - decay) * value
                if value.is_floating_point()
                else value.clone()
            )
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with step.final_weights():
        for name, value in model.state_dict().items():
            # float32: differences of up to 1.2e-7 were measured.
            assert torch.allclose(value, mean[name], rtol=0, atol=1e-6), name
        assert not torch.equal(model.head.weight, own["head.weight"])
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_flip_average_is_the_mean_of_both_passes_and_differentiable():
    model = network().eval()
    images = torch.rand(3, 3, 24, 24)
    expected = torch.stack([model(images), model(torch.flip(images, [3]))]).mean(0)
    judged = FlipAverage(model)
    assert torch.allclose(judged(images), expected)
    assert torch.allclose(judged(images), judged(images.flip(3)), atol=1e-6)
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judged(variable)[:, 0].sum(), variable)
    assert torch.allclose(
        gradient, torch.autograd.grad(judged(variable.flip(3))[:, 0].sum(), variable)[0], atol=1e-6
    )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_free_training_equals_a_plain_loop(norm):
    """One backward pass per replay updates weights and noise. The next batch reuses the noise."""
    eps = {"l2": 0.5, "linf": 0.03}[norm]
    model, plain = (make_float64(make_smooth(network())) for _ in range(2))
    step = stepper(model, eps, attack={"method": "free", "norm": norm, "replays": 3})
    optimizer, noise = (
        make_sgd(plain.train(), ScheduleSettings(weight_decay=0), 0.1),
        torch.zeros(6, 3, 24, 24),
    )
    losses = []
    for images, labels in batches(3):
        step.train_batch(images, labels)
        for _ in range(3):
            moved = (images / 255 + noise).clamp(0, 1).requires_grad_()
            loss = functional.cross_entropy(plain(moved), labels)
            optimizer.zero_grad()
            loss.backward()
            if norm == "linf":
                noise = (noise + eps * moved.grad.sign()).clamp(-eps, eps)
            else:
                noise = noise + eps * moved.grad / moved.grad.flatten(1).norm(dim=1).view(
                    -1, 1, 1, 1
                )
                noise = noise * (eps / noise.flatten(1).norm(dim=1).clamp(min=eps)).view(
                    -1, 1, 1, 1
                )
            optimizer.step()
        losses.append(loss.item())  # of the last replay
    assert noise.flatten(1).norm(dim=1).max() <= eps * (1.001 if norm == "l2" else 42)
    # Noise and logits are float32, and nine updates amplify rounding to 6e-6 in the weights.
    # Under linf the sign of a gradient that is almost zero may differ for a pixel.
    close = (step.noise.delta - noise).abs() < 1e-4
    assert close.all() if norm == "l2" else close.double().mean() > 0.999
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    totals = step.totals()
    assert totals["num_images"] == 18
    assert totals["loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert int(model.backbone.stem[1].num_batches_tracked) == 9


def test_free_noise_is_reset_at_another_resolution_and_fits_short_batches():
    step = stepper(network(), 0.5, attack={"method": "free"})
    ((large, labels),) = batches(1)
    step.train_batch(large, labels)
    kept = step.noise.delta.clone()
    step.train_batch(large[:2], labels[:2])
    assert torch.equal(step.noise.delta[2:], kept[2:])
    assert not torch.equal(step.noise.delta[:2], kept[:2])
    step.train_batch(large[..., :16, :16].contiguous(), labels)
    assert step.noise.delta.shape[-1] == 16


def test_fast_training_takes_one_long_step_from_a_random_start(monkeypatch):
    seen = []

    def remember(model: nn.Module, images: Tensor, labels: Tensor, **how: object) -> Tensor:
        seen.append(how)
        return images

    monkeypatch.setattr("harness.train.attack.pgd", remember)
    stepper(network(), 0.4, attack={"method": "fast", "norm": "linf"}).train_batch(*batches(1)[0])
    assert {
        name: seen[0][name] for name in ("steps", "step_size", "random_start", "batch_norm")
    } == {
        "steps": 1,
        "step_size": pytest.approx(0.5),
        "random_start": "ball",
        "batch_norm": "train",
    }


def test_eps_scales_with_the_resolution(monkeypatch):
    seen = []

    def remember(model: nn.Module, images: Tensor, labels: Tensor, **how: float) -> Tensor:
        seen.append((images.shape[-1], how["eps"], how["step_size"]))
        return images

    monkeypatch.setattr("harness.train.attack.pgd", remember)
    step = stepper(network(), 1.0, attack={"eps_at": 32, "steps": 5})
    for side in (16, 24, 32):
        step.train_batch(*batches(1, side=side)[0])
    assert seen == [(16, 0.5, 0.25), (24, 0.75, 0.375), (32, 1.0, 0.5)]


@pytest.mark.parametrize("num_parts", [2, 4])
def test_accumulated_gradients_equal_those_of_the_batch(num_parts):
    """BatchNorm is in evaluation mode, because it would normalize each micro-batch.

    Seven images in 2 micro-batches are 4 + 3. In 4 they are 3 + 2 + 2, because each has two images
    or more.
    """
    whole, parts = (make_float64(make_smooth(network())) for _ in range(2))
    losses = []
    for model, number in ((whole, 1), (parts, num_parts)):
        optimizer = make_sgd(model, ScheduleSettings(), 0.1)
        config = StepConfig(
            0.1,
            label_smoothing=0.1,
            attack=AttackSettings(),
            eps=0.3,
            num_micro_batches=number,
        )
        step = make_step(model.eval(), optimizer, config, Timer("cpu"))
        for batch in batches(2, size=7):
            step.train_batch(*batch)
        losses.append(step.totals())
    # Attacked images and logits are float32, although the model computes in float64.
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
