"""The attack equals a float64 reference and foolbox, and its images obey the constraints."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.train.attack import ascent, best_of_restarts, pgd, pgd_update, project
from tests.helpers.attacked_networks import K
from writers.errors import UserError


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each image, [B], computed in evaluation mode."""
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
    """Return attacked images, float64 [B, 3, H, W], by PGD image by image."""
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
    ("norm", "eps", "step_size"),
    [("l2", 1.5, 1.0), ("l2", 0.2, 5.0), ("l2", 10.0, 50.0), ("linf", 0.03, 0.02)],
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
    # Images are float32, which rounds pixels by 6e-8 per step. Over 12 seeds, pixels differed by
    # at most 1.4e-7.
    close = (fast.double() - slow).abs() < 1e-6
    # Under linf, the sign of a gradient that is almost zero may differ for a pixel.
    assert close.all() if norm == "l2" else close.double().mean() > 0.999


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_the_attack_raises_the_loss_and_stays_in_the_ball_and_in_0_to_1(
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


def test_best_iterate_is_never_below_any_iterate(smooth_net, batch):
    images, labels = batch
    # The steps are so long that the last iterate of some images is not the best.
    attack = {"norm": "l2", "eps": 10.0, "step_size": 50.0}
    best = losses(
        smooth_net, pgd(smooth_net, images, labels, steps=4, best_iterate=True, **attack), labels
    )
    iterates = [
        losses(smooth_net, pgd(smooth_net, images, labels, steps=steps, **attack), labels)
        for steps in range(5)
    ]
    assert (iterates[-1] < best - 1e-3).any()
    # The attack compares float32 losses. If two are equal, it may keep either iterate.
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
    # Sums over one image and over six may differ in order, and so in the last bits of float32.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


class Saturated(nn.Module):
    """Predict class 0 with certainty. For label 0, the loss and its gradient are exactly zero."""

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


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_l2_steps_equal_those_of_foolbox(smooth_net, batch, steps):
    """The oracle is foolbox 3.3.4. Some of the images are close to black or white."""
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


def test_random_starts_are_uniform_in_the_ball(net):
    """In an L2 ball of d dimensions, (r / eps) ** d is uniform on [0, 1] for the radius r.

    With linf, each pixel is uniform.
    """
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
    """The result of each image does not depend on the order of the restarts."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.InstanceNorm2d(3), nn.Flatten(), nn.Linear(3 * 8 * 8, K))
    attacks = [torch.rand(6, 3, 8, 8) for _ in range(6)]
    with torch.no_grad():
        logits = torch.stack([net(attacked) for attacked in attacks])
    # The last restart fails on the first three images.
    labels = torch.cat([logits[-1, :3].argmax(1), torch.arange(3)])
    wrong = logits.argmax(2) != labels
    losses = torch.stack(
        [functional.cross_entropy(one, labels, reduction="none") for one in logits]
    )
    assert (wrong.any(0) & ~wrong[-1]).any(), (
        "an earlier restart must succeed where the last one fails"
    )
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
def test_the_fused_update_equals_its_parts_bit_for_bit_and_compiles_as_one_graph(norm):
    """Gradients include zero and tiny ones; some steps leave the ball or [0, 1]."""
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
