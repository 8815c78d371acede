"""The training step: equal to a plain loop; memory layout, attack, precision and resume."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.train.attack import pgd
from harness.train.metrics import Counts
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, TrainStep, make_step

K = 5
SETTINGS = ScheduleSettings(lr=0.1, weight_decay=1e-3, nesterov=True)


def network() -> classifier.Classifier:
    torch.manual_seed(0)
    return classifier.build("resnet10", K, channels=(16, 16, 16, 32))


def wide() -> classifier.Classifier:
    """A network for which the step needs no workaround for torch's convolutions on any CPU."""
    torch.manual_seed(0)
    return classifier.build("resnet10", K, channels=(16, 16, 16, 16))


def batches(num: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8, generator=generator).to(
                memory_format=torch.channels_last
            ),
            torch.randint(0, K, (8,), generator=generator),
        )
        for _ in range(num)
    ]


def stepper(
    model: nn.Module,
    *,
    eps: float = 0.0,
    precision: str = "float32",
    smoothing: float = 0.0,
    timer: Timer | None = None,
    **attack: object,
) -> tuple[TrainStep, torch.optim.SGD]:
    optimizer = make_sgd(model, SETTINGS, 0.1)
    config = StepConfig(
        0.1,
        precision=precision,
        label_smoothing=smoothing,
        eps=eps,
        attack=AttackSettings(**attack),
    )
    return make_step(model.train(), optimizer, config, timer or Timer("cpu")), optimizer


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_step_equals_a_plain_loop_bit_for_bit(eps):
    ours, plain = wide(), wide()
    step, _ = stepper(ours, eps=eps, smoothing=0.1)
    optimizer = make_sgd(plain, SETTINGS, 0.1)
    plain.train()
    losses, right = [], 0
    for images, labels in batches(3):
        step.train_batch(images, labels)
        if eps:
            images = pgd(
                plain, images / 255, labels, norm="l2", eps=eps, steps=3, step_size=2.5 / 3 * eps
            )
        logits = plain(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        right += int((logits.argmax(1) == labels).sum())
    for (name, ours_value), theirs in zip(
        ours.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(ours_value, theirs), name
    assert step.totals() == {
        "loss": pytest.approx(sum(losses) / 3, rel=1e-7),
        "top1": right / 24,
        "num_images": 24,
        "zero_gradients": 0,
    }


def test_totals_reset_and_are_weighted_by_images():
    model = network()
    step, optimizer = stepper(model)
    # The weights must not change.
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
    ((images, labels),) = batches(1)
    step.train_batch(images, labels)
    step.totals()
    step.train_batch(images[:6], labels[:6])
    step.train_batch(images[:2], labels[:2])
    totals, reference = step.totals(), network().train()
    expected = (
        sum(functional.cross_entropy(reference(images[:n]), labels[:n]).item() * n for n in (6, 2))
        / 8
    )
    assert totals["num_images"] == 8 and totals["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_attack_changes_neither_gradients_nor_statistics():
    """Only the passes on the attacked batch change them, once per step."""
    model, plain = wide(), wide().train()
    step, optimizer = stepper(model, eps=0.5, best_iterate=True)
    gradients: list[Tensor] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in model.parameters())
    )
    ((images, labels),) = batches(1)
    step.train_batch(images, labels)
    assert all(parameter.grad is None for parameter in model.parameters()), (
        "gradients would take memory during the next attack"
    )
    assert int(model.backbone.stem[1].num_batches_tracked) == 1
    moved = pgd(
        plain,
        images / 255,
        labels,
        norm="l2",
        eps=0.5,
        steps=3,
        step_size=0.5 * 2.5 / 3,
        best_iterate=True,
    )
    functional.cross_entropy(plain(moved), labels).backward()
    for ours, theirs in zip(gradients, plain.parameters(), strict=True):
        assert torch.equal(ours, theirs.grad)


def test_modes_of_modules_are_kept():
    model = network()
    model.train()
    model.backbone.stem[1].eval()
    config = StepConfig(0.1, attack=AttackSettings(), eps=0.5)
    step = make_step(model, make_sgd(model, SETTINGS, 0.1), config, Timer("cpu"))
    before = model.backbone.stem[1].running_mean.clone()
    for images, labels in batches(2):
        step.train_batch(images, labels)
    assert torch.equal(model.backbone.stem[1].running_mean, before)
    assert model.backbone.stage1.bn1.training
    assert int(model.backbone.stage1.bn1.num_batches_tracked) == 2


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_channels_last_reaches_the_last_convolution(eps, precision):
    model, seen = network(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: seen.append(
                    all(
                        x.is_contiguous(memory_format=torch.channels_last)
                        for x in (*inputs, output)
                    )
                )
            )
    step, _ = stepper(model, eps=eps, precision=precision)
    step.train_batch(*batches(1)[0])
    assert len(seen) == 12 * (4 if eps else 1) and all(seen)


def test_the_loaders_batch_is_not_modified():
    ((images, labels),) = batches(1)
    kept = images.clone()
    step, _ = stepper(network(), eps=0.5)
    step.train_batch(images, labels)
    assert torch.equal(images, kept)


# bf16 has 8 significant bits, fp16 has 11.
@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.9), ("fp16", 0.99)])
def test_low_precision_steps_point_in_the_same_direction(precision, cosine):
    exact, low, start = network(), network(), network()
    for model, kind in ((exact, "float32"), (low, precision)):
        step, _ = stepper(model, precision=kind)
        state = step.state_dict()
        if kind == "fp16":
            state["scaler"]["scale"] = (
                256.0  # the initial 2 ** 16 may overflow, and the step is then skipped
            )
        step.load_state_dict(state)
        step.train_batch(*batches(1)[0])
    moves = [
        torch.cat(
            [(p - q).flatten() for p, q in zip(model.parameters(), start.parameters(), strict=True)]
        )
        for model in (exact, low)
    ]
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert functional.cosine_similarity(*moves, dim=0) > cosine
    assert 0.9 < moves[1].norm() / moves[0].norm() < 1.1


def test_fp16_survives_an_overflow_and_lowers_its_scale():
    model = network()
    step, _ = stepper(model, precision="fp16")
    state = step.state_dict()
    state["scaler"]["scale"] = 2.0**60
    step.load_state_dict(state)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step.train_batch(*batches(1)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert step.state_dict()["scaler"]["scale"] == 2.0**59


@pytest.fixture
def fill_uninitialized_with_nan():
    """Fill `torch.empty` with NaN instead of arbitrary memory, often zeros."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_first_step_that_overflows_leaves_no_momentum(fill_uninitialized_with_nan):
    """Later steps equal those of a run without the overflowing step."""
    overflowed, plain = network(), network()
    for model in (overflowed, plain):
        step, _ = stepper(model, precision="fp16")
        first, *others = batches(3)
        for scale, its in ((2.0**60, [first] if model is overflowed else []), (256.0, others)):
            state = step.state_dict()
            state["scaler"]["scale"] = scale
            step.load_state_dict(state)
            for batch in its:
                step.train_batch(*batch)
    for ours, theirs in zip(overflowed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs) and not torch.isnan(ours).any()


def test_resumed_steps_equal_uninterrupted_ones():
    """The saved state includes the generator of the attack's random starts."""
    make = partial(stepper, eps=0.5, random_start="ball")
    whole = network()
    step, _ = make(whole)
    for batch in batches(4):
        step.train_batch(*batch)
    first, second = network(), network()
    step, optimizer = make(first)
    for batch in batches(4)[:2]:
        step.train_batch(*batch)
    again, optimizer_again = make(second)
    second.load_state_dict(first.state_dict())
    optimizer_again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(step.state_dict())
    for batch in batches(4)[2:]:
        again.train_batch(*batch)
    for ours, theirs in zip(second.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_zero_gradients_are_counted_and_spans_are_timed():
    model = network()
    with torch.no_grad():
        model.head.weight.zero_()  # no gradient reaches the pixels
    timer = Timer("cpu")
    step, _ = stepper(model, eps=0.5, timer=timer)
    step.train_batch(*batches(1)[0])
    assert step.totals()["zero_gradients"] == 8 * 3
    assert step.totals()["zero_gradients"] == 0
    timer.end_step()
    spans = timer.end_epoch()["spans_s"]
    assert {name for name, seconds in spans.items() if seconds > 0} == {
        "attack",
        "forward",
        "backward",
        "optimizer",
    }


class Waits(TorchDispatchMode):
    """Refuse operations that synchronize with a GPU: their result or size depends on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation.overloadpacket.__name__ not in self.NAMES, f"{operation} synchronizes"
        return operation(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Refuse functions that read values on the host. On a CPU, `Waits` does not see them."""

    FUNCTIONS = (
        Tensor.item,
        Tensor.cpu,
        Tensor.tolist,
        Tensor.numpy,
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__int__,
        Tensor.__index__,
    )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in self.FUNCTIONS, f"{function} synchronizes"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "attack",
    [
        {"eps": 0.0},
        {"eps": 0.5, "best_iterate": True, "random_start": "sphere"},
        {"eps": 0.1, "norm": "linf", "batch_norm": "train"},
        {"eps": 0.1, "method": "fast"},
        {"eps": 0.1, "method": "free"},
    ],
)
def test_a_step_never_synchronizes(precision, attack):
    """Covers all calls of the loop: learning rate, step with EMA and micro-batches, counts."""
    model = network()
    optimizer = make_sgd(model, SETTINGS, 0.1)
    settings = AttackSettings.model_validate(
        {name: value for name, value in attack.items() if name != "eps"}
    )
    config = StepConfig(
        0.1,
        precision=precision,
        label_smoothing=0.1,
        eps=attack["eps"],
        attack=settings,
        ema_decay=0.9,
        num_micro_batches=1 if settings.method == "free" else 2,
    )
    step = make_step(model.train(), optimizer, config, Timer("cpu"))
    counts = Counts(K, "cpu", labels=(1, 2), logits=(1, 2, 3), keep_predictions=True)
    with Waits(), Reads():
        for images, labels in batches(2):
            step.set_rate(0.5)
            step.train_batch(images, labels)
            counts.add(torch.randn(8, K), labels)
    for mode in (Waits(), Reads()):
        with pytest.raises(AssertionError, match="synchronizes"), mode:
            step.totals()
    assert step.totals()["num_images"] == 16
