"""Training steps to compare: ours, in several variants, and the step of a plain loop."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from harness.cli.benches._training_rounds import Round
    from harness.config.attack import AttackSettings
    from harness.profiling.timer import Timer
    from harness.train.step import TrainStep

NUM_CLASSES = 1000
NUM_TRACED_STEPS = 3


def our_step(
    arch: str,
    resolution: int,
    batch_size: int,
    eps: float,
    device: str,
    compiled: str = "eager",
) -> Callable[[], None]:
    """Return a function that takes one of our training steps, always on the same batch.

    Args:
        arch: Name of the architecture.
        resolution: Side of the images in pixels.
        batch_size: Images per batch.
        eps: Radius of the L2 attack; 0 for clean training.
        device: Device of the model.
        compiled: Compile mode, a key of `harness.train.compilation.MODES`.
    """
    from harness.train.autotune import noise_batch

    batch = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    learner = make_learner(arch, eps, device)
    learner.compile(compiled, batch_size)
    learner.set_rate(1.0)
    return lambda: learner.train_batch(*batch)


def our_timed_step(
    arch: str, resolution: int, batch_size: int, eps: float, device: str
) -> "tuple[Callable[[], None], Round]":
    """Return our eager step with its parts (spans) timed, and a context manager for its rounds.

    The context manager reads the times after each round, when the clock of the benchmark has
    stopped; a training reads them once per epoch. For the arguments see `our_step`.
    """
    from harness.profiling.timer import Timer
    from harness.train.autotune import noise_batch

    batch = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    timer = Timer(device)
    learner = make_learner(arch, eps, device, timer)
    learner.compile("eager", batch_size)
    learner.set_rate(1.0)

    def step() -> None:
        with timer.span("data_wait"):
            pass
        with timer.span("augment"):
            pass
        learner.train_batch(*batch)
        timer.end_step()

    @contextmanager
    def read_after() -> Iterator[None]:
        yield
        timer.end_epoch()

    return step, read_after


# Augmentations under test, by name: settings as in a recipe.
AUGMENTATIONS: dict[str, dict[str, object]] = {
    "randaugment": {"randaugment": {}},
    "randaugment timm": {"randaugment": {"ops": "timm", "magnitude_std": 0.5, "probability": 0.5}},
    "color_jitter": {
        "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    },
    "lighting": {"lighting": 0.1},
    "erasing": {"erasing": {"fill": "noise"}},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "salman": {"preset": "salman"},
    "non_binary": {"preset": "non_binary"},
}


def our_augmented_step(
    arch: str, resolution: int, batch_size: int, eps: float, device: str, name: str
) -> Callable[[], None]:
    """Return our eager step on one batch, which each step augments differently.

    For the arguments see `our_step`; name: key of AUGMENTATIONS.
    """
    from harness.train.autotune import augmented_step, noise_batch
    from loaders.augmentations import Augmentations

    batch = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    learner = make_learner(arch, eps, device)
    learner.set_rate(1.0)
    settings = Augmentations.model_validate(AUGMENTATIONS[name])
    return augmented_step(learner, batch, settings, NUM_CLASSES)


def make_learner(arch: str, eps: float, device: str, timer: "Timer | None" = None) -> "TrainStep":
    """Build a network with random weights, its optimizer and its step, as the harness does.

    timer: receives the times of the parts (spans) of the step; None measures nothing.
    """
    import torch

    from harness.config.train import ScheduleSettings
    from harness.modeling import classifier
    from harness.modeling.precision import choose
    from harness.profiling.timer import Timer
    from harness.train.optimizer import make_sgd
    from harness.train.step import StepConfig, make_step

    torch.manual_seed(0)
    model = classifier.build(arch, NUM_CLASSES).to(device)
    return make_step(
        model,
        make_sgd(model, ScheduleSettings(), 1e-3),
        StepConfig(
            peak_lr=1e-3,
            device=device,
            precision=choose("auto", device),
            attack=pgd3() if eps else None,
            eps=eps,
        ),
        timer or Timer(device, enabled=False),
    )


def training_flops_of(arch: str, resolution: int, eps: float) -> float | None:
    """Return the floating-point operations of a training step per image; None if unknown."""
    from harness.modeling import classifier
    from harness.modeling.flops import training_flops

    model = classifier.build(arch, NUM_CLASSES)
    return training_flops(model, resolution, pgd3() if eps else None)


def write_trace(step: Callable[[], None], folder: "Path", device: str) -> "Path":
    """Take a few steps under torch's profiler; return the file with their trace."""
    from harness.profiling.trace import SKIPPED_STEPS, StepTrace

    folder.mkdir(parents=True, exist_ok=True)
    trace = StepTrace(folder, NUM_TRACED_STEPS, device)
    for _ in range(SKIPPED_STEPS + NUM_TRACED_STEPS):
        step()
        trace.after_step()
    trace.close()
    return folder / (trace.file or "")


def plain_step(
    arch: str, resolution: int, batch_size: int, eps: float, device: str
) -> Callable[[], None]:
    """Return a step as common scripts have it: eager, channels-last, autocast, `.item()` per step.

    For the arguments see `our_step`.
    """
    import torch
    from torch.nn import functional

    from harness.modeling import classifier
    from harness.modeling.precision import autocast, choose
    from harness.train.autotune import noise_batch

    torch.manual_seed(0)
    model = classifier.build(arch, NUM_CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-5)
    images, labels = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    precision = choose("auto", device)
    attack = pgd3()

    def step() -> None:
        pixels = images.float() / 255
        if eps:
            pixels = plain_attack(
                model, pixels, labels, eps, attack, lambda: autocast(precision, device, model)
            )
        model.train()
        optimizer.zero_grad()
        with autocast(precision, device, model):
            logits = model(pixels)
            loss = functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()

    return step


def plain_attack(
    model: "nn.Module",
    pixels: "Tensor",
    labels: "Tensor",
    eps: float,
    settings: "AttackSettings",
    context: Callable[[], AbstractContextManager[object]],
) -> "Tensor":
    """L2-PGD by `loss.backward()`, which also computes gradients of the weights.

    Args:
        model: Maps pixels in [0, 1] to logits.
        pixels: [B, 3, R, R] in [0, 1].
        labels: int64 [B].
        eps: Radius of the L2 ball.
        settings: Number and length of the steps.
        context: Entered around each forward pass, such as autocast.

    Returns:
        Adversarial pixels, shaped like `pixels`.
    """
    import torch
    from torch.nn import functional

    model.eval()
    adversarial = pixels.clone()
    for _ in range(settings.steps):
        adversarial = adversarial.detach().requires_grad_()
        with context():
            loss = functional.cross_entropy(model(adversarial), labels)
        loss.backward()
        assert adversarial.grad is not None
        with torch.no_grad():
            gradient = adversarial.grad
            gradient = gradient / (gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
            delta = adversarial + settings.step_length(eps) * gradient - pixels
            length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            adversarial = (pixels + delta * (eps / length.clamp(min=eps))).clamp(0, 1)
        loss.item()
    return adversarial.detach()


def pgd3() -> "AttackSettings":
    """Return the settings of PGD with three steps."""
    from harness.config.attack import AttackSettings

    return AttackSettings(steps=3)
