"""The attack: constraints on its images, no side effects, and a float64 reference."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.modeling import classifier
from harness.train.attack import ascent, best_of_restarts, pgd, pgd_update, project
from tests.helpers.smooth_networks import make_float64, make_smooth
from writers.errors import UserError

K = 5


def build_net(*, smooth: bool) -> nn.Module:
    """A model with dropout whose BatchNorm has nontrivial running statistics."""
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=(16, 16, 16, 32))
    model.backbone.dropout = nn.Dropout(0.5)
    if smooth:
        make_smooth(model)
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 24, 24))
    return model


@pytest.fixture
def net() -> nn.Module:
    return build_net(smooth=False)


@pytest.fixture
def smooth_net() -> nn.Module:
    """A network for comparisons with an independent implementation."""
    return make_float64(build_net(smooth=True))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Two images are close to 0 and 1, so that clamping has an effect.

    No image is constant, because all inputs of a max pooling would tie, and the result would depend
    on the CPU's rounding.
    """
    torch.manual_seed(1)
    images = torch.rand(6, 3, 24, 24).to(memory_format=torch.channels_last)
    images[0] *= 0.01
    images[1] = 1 - 0.01 * images[1]
    return images, torch.arange(6) % K


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return functional.cross_entropy(model(images), labels, reduction="none")


def slow_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    eps: float,
    steps: int,
    step_size: float,
    best_iterate: bool,
) -> Tensor:
    """PGD image by image in float64, without vectorization."""
    model = copy.deepcopy(model).eval().double()
    results = []
    for image, label in zip(images.double(), labels, strict=True):
        x, tried = image.clone(), []
        for _ in range(steps):
            x = x.clone().requires_grad_()
            loss = functional.cross_entropy(model(x[None]), label[None])
            (g,) = torch.autograd.grad(loss, x)
            tried.append((loss.item(), x.detach()))
            moved = x.detach() + step_size * (
                g.sign() if norm == "linf" else g / (g.pow(2).sum().sqrt() + 1e-10)
            )
            delta = moved - image
            if norm == "linf":
                delta = torch.maximum(torch.minimum(delta, torch.tensor(eps)), torch.tensor(-eps))
            elif delta.pow(2).sum().sqrt() > eps:
                delta = delta * eps / delta.pow(2).sum().sqrt()
            x = (image + delta).clamp(0, 1)
        tried.append((functional.cross_entropy(model(x[None]), label[None]).item(), x))
        results.append(max(tried, key=lambda pair: pair[0])[1] if best_iterate else x)
    return torch.stack(results)


@pytest.mark.parametrize("best_iterate", [False, True])
@pytest.mark.parametrize(
    ("norm", "eps", "step_size"), [("l2", 1.5, 1.0), ("l2", 0.2, 5.0), ("linf", 0.03, 0.02)]
)
def test_pgd_equals_a_float64_loop_over_images(
    smooth_net, batch, norm, eps, step_size, best_iterate
):
    fast = pgd(
        smooth_net,
        *batch,
        norm=norm,
        eps=eps,
        steps=3,
        step_size=step_size,
        best_iterate=best_iterate,
    )
    slow = slow_pgd(smooth_net, *batch, norm, eps, 3, step_size, best_iterate)
    # Images are float32, which rounds pixels by 6e-8 per step: at most 1.4e-7 over 12 seeds.
    close = (fast.double() - slow).abs() < 1e-6
    # Under linf, the sign of a gradient that is almost zero may differ for a pixel.
    assert close.all() if norm == "l2" else close.double().mean() > 0.999


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_stays_in_the_ball_and_in_the_box_and_raises_the_loss(
    net, batch, norm, random_start, precision
):
    images, labels = batch
    eps = {"l2": 2.0, "linf": 0.05}[norm]
    moved = pgd(
        net,
        images,
        labels,
        norm=norm,
        eps=eps,
        steps=4,
        step_size=eps / 2,
        random_start=random_start,
        precision=precision,
        generator=torch.Generator().manual_seed(3),
    )
    delta = (moved - images).flatten(1)
    lengths = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    assert moved.dtype == torch.float32 and moved.is_contiguous(memory_format=torch.channels_last)
    assert moved.min() >= 0 and moved.max() <= 1
    assert (lengths <= eps * (1 + 1e-5)).all() and (lengths > eps / 10).all()
    assert losses(net, moved, labels).mean() > losses(net, images, labels).mean() + 0.01


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


def test_attacks_in_evaluation_mode_and_for_gradients_of_pixels_only(net, batch):
    seen = []
    net.register_forward_hook(
        lambda model, _, __: seen.append(
            any(module.training for module in model.modules())
            or any(p.requires_grad for p in model.parameters())
        )
    )
    pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5, best_iterate=True)
    assert seen == [False] * 3


def test_restores_the_model_when_it_fails(net, batch):
    with pytest.raises(IndexError):
        pgd(net, batch[0], batch[1] + K, norm="l2", eps=1.0, steps=1, step_size=0.5)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())


def test_pgd_works_under_no_grad(net, batch):
    with torch.no_grad():
        inside = pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5)
    assert torch.equal(inside, pgd(net, *batch, norm="l2", eps=1.0, steps=2, step_size=0.5))


def test_best_iterate_is_never_below_any_iterate(smooth_net, batch):
    images, labels = batch
    # A step too long: the last iterate is often not the best.
    attack = {"norm": "l2", "eps": 1.0, "step_size": 5.0}
    best = losses(
        smooth_net, pgd(smooth_net, images, labels, steps=4, best_iterate=True, **attack), labels
    )
    iterates = [
        losses(smooth_net, pgd(smooth_net, images, labels, steps=steps, **attack), labels)
        for steps in range(5)
    ]
    # The attack compares float32 losses: of two that are equal in float32 it may keep either.
    torch.testing.assert_close(best, torch.stack(iterates).amax(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", [{"eps": 0.0}, {"steps": 0}])
def test_zero_eps_or_steps_returns_the_input(net, batch, change):
    settings = {
        "norm": "l2",
        "eps": 1.0,
        "steps": 2,
        "step_size": 0.5,
        "random_start": True,
        **change,
    }
    assert pgd(net, *batch, **settings) is batch[0]


def test_each_image_is_attacked_on_its_own(smooth_net, batch):
    images, labels = batch
    together = pgd(smooth_net, images, labels, norm="l2", eps=1.0, steps=1, step_size=0.5)
    alone = torch.cat(
        [
            pgd(
                smooth_net,
                images[i : i + 1],
                labels[i : i + 1],
                norm="l2",
                eps=1.0,
                steps=1,
                step_size=0.5,
            )
            for i in range(len(images))
        ]
    )
    # Sums over one image and over six may differ in order: the last bits of float32.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


class Saturated(nn.Module):
    """Predict class 0 with certainty: its loss and gradient are exactly zero, unlike others."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.sum((1, 2, 3))
        return torch.stack([total * 0 + 200, total], 1)


def test_zero_gradients_are_counted_and_their_images_do_not_move():
    images, counter = torch.full((3, 3, 4, 4), 0.5), torch.tensor(10)
    moved = pgd(
        Saturated(),
        images,
        torch.tensor([0, 1, 0]),
        norm="l2",
        eps=0.1,
        steps=3,
        step_size=0.1,
        zero_gradients=counter,
    )
    assert counter == 10 + 2 * 3
    assert torch.equal(moved[[0, 2]], images[[0, 2]]) and not torch.equal(moved[1], images[1])


class Sure(nn.Module):
    """A confident half-precision model whose pixel gradients underflow.

    The backward pass starts with 1 - p = 1e-4. The gradient of a pixel is 1e-8 times that of a
    logit, which float16 rounds to zero.
    """

    def forward(self, images: Tensor) -> Tensor:
        total = (images.half() * 1e-4).flatten(1).sum(1)
        return torch.stack([total + 9.2, -total], 1)


def test_fp16_scaling_prevents_gradients_from_underflowing(monkeypatch):
    images, labels, attack = (
        torch.full((3, 3, 4, 4), 0.5),
        torch.tensor([0, 0, 1]),
        {"norm": "l2", "eps": 0.1, "steps": 2},
    )
    counter = torch.tensor(0)
    moved = pgd(
        Sure(), images, labels, step_size=0.1, precision="fp16", zero_gradients=counter, **attack
    )
    assert counter == 0
    assert torch.allclose((moved - images).flatten(1).norm(dim=1), torch.tensor(0.1))
    assert (moved[:2] < images[:2]).all() and (moved[2] > images[2]).all()
    monkeypatch.setattr("harness.train.attack._fp16_scale", torch.ones_like)
    still = pgd(
        Sure(), images, labels, step_size=0.1, precision="fp16", zero_gradients=counter, **attack
    )
    assert counter == 2 * 2 and torch.equal(still[:2], images[:2]), (
        "the model needs no scaling, so the test proves nothing"
    )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fp16_steps_approximate_float32_steps(batch, norm):
    eps = {"l2": 1.0, "linf": 0.03}[norm]
    net = build_net(smooth=True)
    exact, low = (
        pgd(net, *batch, norm=norm, eps=eps, steps=1, step_size=eps / 2, precision=precision)
        for precision in ("float32", "fp16")
    )
    moves = [(images - batch[0]).flatten(1) for images in (exact, low)]
    # float16 has 11 bits; under linf the sign of small gradients may differ.
    assert (functional.cosine_similarity(*moves) > {"l2": 0.999, "linf": 0.95}[norm]).all()


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_l2_steps_equal_those_of_foolbox(smooth_net, batch, steps):
    """foolbox 3.3.4, L2 PGD without a random start, also on images close to black and white."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox, an oracle, is not installed")
    smooth_net.eval()
    eps, relative = 1.5, 2.5 / 20
    theirs = foolbox.attacks.L2PGD(rel_stepsize=relative, steps=steps, random_start=False).run(
        foolbox.PyTorchModel(smooth_net, bounds=(0, 1)), *batch, epsilon=eps
    )
    ours = pgd(smooth_net, *batch, norm="l2", eps=eps, steps=steps, step_size=relative * eps)
    # Both keep images in float32, which rounds pixels by 6e-8 per step.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.allclose(ours, batch[0], atol=1e-2)  # the images have moved far more than that


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_sphere_starts_have_norm_eps(net, norm):
    images = torch.full((50, 3, 8, 8), 0.5)
    labels = torch.zeros(50, dtype=torch.int64)
    starts = pgd(
        net,
        images,
        labels,
        norm=norm,
        eps=0.1,
        steps=1,
        step_size=0.0,
        random_start="sphere",
        generator=torch.Generator().manual_seed(0),
    )
    delta = (starts - images).flatten(1)
    assert torch.allclose(
        delta.norm(dim=1) if norm == "l2" else delta.abs().amin(1), torch.tensor(0.1)
    )
    assert delta.mean().abs() < 0.01


def test_batch_norm_train_uses_batch_statistics_without_updating_running_ones(smooth_net, batch):
    """With batch_norm="train" BatchNorm uses batch statistics; dropout is off."""
    net, (images, labels) = smooth_net, batch
    net.backbone.stage2.bn1.eval()  # frozen, as by a transfer method
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
    # float32 pixels: one rounding of the step and one of the sum
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


def test_random_starts_are_uniform_in_the_ball(net):
    """In d dimensions (r / eps) ** d is uniform on [0, 1]; with linf each pixel is uniform."""
    images = torch.full((4000, 3, 1, 1), 0.5)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    starts = pgd(
        flat,
        images,
        torch.zeros(4000, dtype=torch.int64),
        norm="l2",
        eps=0.1,
        steps=1,
        step_size=0.0,
        random_start=True,
        generator=torch.Generator().manual_seed(0),
    )
    radii = (starts - images).flatten(1).norm(dim=1) / 0.1
    quantiles = (radii**3).quantile(torch.tensor([0.1, 0.5, 0.9]))
    # 4000 starts: a quantile has a standard error of at most 0.008, a mean of 0.001.
    assert torch.allclose(quantiles, torch.tensor([0.1, 0.5, 0.9]), atol=0.03)
    assert (starts - images).mean((0, 2, 3)).abs().max() < 0.005
    box = pgd(
        flat,
        images,
        torch.zeros(4000, dtype=torch.int64),
        norm="linf",
        eps=0.1,
        steps=1,
        step_size=0.0,
        random_start=True,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.allclose(
        (box - images).flatten().quantile(torch.tensor([0.1, 0.5, 0.9])),
        torch.tensor([-0.08, 0.0, 0.08]),
        atol=0.005,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l1"}, "norm named 'l1'"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"steps": -1}, "number of steps"),
        ({"random_start": "box"}, "random start named 'box'"),
        ({"step_size": -0.1}, "step size"),
    ],
)
def test_invalid_settings_are_refused(net, batch, change, message):
    with pytest.raises(UserError, match=message):
        pgd(net, *batch, **{"norm": "l2", "eps": 1.0, "steps": 1, "step_size": 0.5, **change})


def test_restarts_keep_successes_and_highest_losses():
    """Per image, in any order of restarts."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.InstanceNorm2d(3), nn.Flatten(), nn.Linear(3 * 8 * 8, K))
    attacks = [torch.rand(6, 3, 8, 8) for _ in range(6)]
    with torch.no_grad():
        logits = torch.stack([net(attacked) for attacked in attacks])
    labels = torch.cat([logits[-1, :3].argmax(1), torch.arange(3)])  # the last fails on three
    wrong = logits.argmax(2) != labels
    losses = torch.stack(
        [functional.cross_entropy(one, labels, reduction="none") for one in logits]
    )
    assert (wrong.any(0) & ~wrong[-1]).any(), "the last restart alone must not suffice"
    for order in (range(6), range(5, -1, -1)):
        given = iter([attacks[number] for number in order])
        kept = best_of_restarts(lambda given=given: next(given), net, labels, 6, "float32")
        for place in range(len(labels)):
            best = max(
                range(6),
                key=lambda number: (bool(wrong[number, place]), float(losses[number, place])),
            )
            assert torch.equal(kept[place], attacks[best][place])


def test_uint8_images_are_refused(net, batch):
    with pytest.raises(UserError, match=r"uint8"):
        pgd(net, (batch[0] * 255).byte(), batch[1], norm="l2", eps=1.0, steps=1, step_size=0.5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_fused_move_equals_its_parts_bit_for_bit_and_compiles_whole(norm):
    """Also for a gradient of zero, a tiny one, and a step that leaves the ball or [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    center, iterate, gradient = (
        torch.rand(5, 3, 9, 9, generator=generator).to(memory_format=torch.channels_last)
        for _ in range(3)
    )
    gradient = (gradient - 0.5) * torch.tensor([0.0, 1e-30, 1e-4, 1.0, 1e6]).view(-1, 1, 1, 1)
    before = [value.clone() for value in (center, iterate, gradient)]
    whole = torch.compile(pgd_update, fullgraph=True, dynamic=False, backend="aot_eager")
    for eps, step_size in ((0.5, 0.1), (3.0, 2.0), (0.01, 7.0)):
        parts = project(iterate + ascent(gradient, norm, step_size), center, norm, eps)
        for function in (pgd_update, whole):
            found = function(iterate, gradient, center, norm, eps, step_size)
            assert torch.equal(found, parts)
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, before, (center, iterate, gradient)))


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
