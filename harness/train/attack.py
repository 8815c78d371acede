"""Projected gradient ascent on the pixels, for adversarial training and for robust evaluation.

Madry et al. 2018, with the semantics of the `robustness` library (Engstrom et al. 2019): the step is normalised image by
image, the sum is projected onto the eps-ball and then clamped to [0, 1], and the model is in evaluation mode meanwhile.
Three differences, all on purpose: the loss is summed, not averaged (an average divides each image's gradient by the batch
size, which float16 rounds to zero); a random L2 start is uniform in the ball unless asked for on its surface; and the last
iterate is taken unless the best is asked for, which costs a forward pass and is that library's default.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.modeling.module_modes import attack_mode, eval_mode
from harness.modeling.precision import Precision, autocast
from harness.train.loss import image_losses
from writers.errors import UserError

Attack = Callable[[Tensor, Tensor], Tensor]  # uint8 images, labels -> float images in [0, 1]
Norm = Literal["l2", "linf"]
Start = Literal["none", "ball", "sphere"]
TINY = 1e-10  # keeps the L2 step finite where a gradient is zero, as `robustness` does
FP16_SCALE = 256.0  # of the gradient that each image's backward pass begins with; bf16 has float32's exponents
FP16_SURE = 2.0**-20  # an image is never scaled up by more than the inverse of this


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    step_size: float,
    random_start: bool | Start = False,
    best_iterate: bool = False,
    batch_norm: Literal["eval", "train"] = "eval",
    generator: torch.Generator | None = None,
    precision: Precision = "float32",
    zero_gradients: Tensor | None = None,
    logits_of: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Images of higher loss within `eps` of the given ones.

    images: [B, 3, R, R] floats in [0, 1], left as they are; labels: int64 [B] or int8 [B, K]; the model maps images
    to logits [B, K].
    norm, eps, step_size: the ball, its radius and the length of a step, in units of [0, 1] pixels; L2 is over all of an image.
    random_start: begin anywhere in the ball (True or "ball") or on its surface ("sphere": for linf, at the corners), from
    `generator`, on the images' device. best_iterate: return each image's iterate of highest loss, the start included, for
    one more forward pass; otherwise the last. batch_norm: with "train", a BatchNorm that is in training mode uses the
    statistics of the attacked batch; with "eval" its own. zero_gradients: an int64 tensor that the number of zero gradients
    met is added to (low precision makes them; such an image does not move). logits_of: a compiled stand-in for the model.

    Returns float32 images in [0, 1], or the very images given where eps or steps is 0. The model's modes, buffers, parameters
    and their gradients are as before. Never waits for the GPU. Raises UserError for settings that mean nothing.
    """
    start: Start = (
        ("ball" if random_start else "none") if isinstance(random_start, bool) else random_start
    )
    _check(images, norm, eps, steps, step_size, start)
    if eps == 0 or steps == 0:
        return images
    center = images.detach().float()
    iterate = (
        center
        if start == "none"
        else _random_start(center, norm, eps, generator, on_surface=start == "sphere")
    )
    logits_of = logits_of or model
    best = best_loss = None
    with attack_mode(model, batch_norm), _constant_parameters(model):
        for _ in range(steps):
            loss, gradient = _loss_and_gradient(logits_of, iterate, labels, precision)
            if best_iterate:
                best, best_loss = _better(best, best_loss, iterate, loss)
            if zero_gradients is not None:
                count_zero_gradients(gradient, zero_gradients)
            iterate = project(iterate + ascent(gradient, norm, step_size), center, norm, eps)
        if best_iterate:
            with torch.no_grad():
                loss = _loss(logits_of, iterate, labels, precision)
            iterate, _ = _better(best, best_loss, iterate, loss)
    return iterate


class PgdAttack:
    """Attack on training batches: PGD, or its one-step variant `fast`.

    Attributes:
        generator: Source of random starts.
        zero_gradients: int64 scalar; the number of zero gradients is added to it.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: AttackSettings,
        eps: float,
        *,
        precision: Precision,
        logits_of: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        zero_gradients: Tensor,
    ) -> None:
        """Bind the settings.

        Args:
            model: The model that trains.
            settings: Norm, number and length of steps, start.
            eps: Radius in units of [0, 1] pixels; `settings.eps_of` adapts it to the resolution.
            precision: Number format of the passes.
            logits_of: The model, or a compiled form of it.
            generator: Source of random starts, on the device of the images.
            zero_gradients: int64 scalar on that device.
        """
        self._model, self._settings, self._eps = model, settings, eps
        self._precision, self._logits_of = precision, logits_of
        self.generator, self.zero_gradients = generator, zero_gradients

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return float32 images of higher loss, [B, 3, R, R] in [0, 1].

        Args:
            images: uint8 [B, 3, R, R].
            labels: int64 [B] or int8 [B, K].
        """
        settings = self._settings
        eps = settings.eps_of(self._eps, images.shape[-1])
        return pgd(
            self._model,
            images.float().div_(255),
            labels,
            norm=settings.norm,
            eps=eps,
            steps=settings.steps,
            step_size=settings.step_length(eps),
            random_start=settings.random_start,
            best_iterate=settings.best_iterate,
            batch_norm=settings.batch_norm,
            generator=self.generator,
            precision=self._precision,
            zero_gradients=self.zero_gradients,
            logits_of=self._logits_of,
        )


def no_attack(images: Tensor, labels: Tensor) -> Tensor:
    """Return the images unchanged: training on clean images."""
    return images


def restarted(
    attack: Callable[[], Tensor],
    model: nn.Module,
    labels: Tensor,
    restarts: int,
    precision: Precision,
) -> Tensor:
    """Of so many attacks on the same images, each image's best: one that the model gets wrong, and then of the highest loss.

    attack: `pgd` on them, which starts elsewhere each time; images [B, 3, R, R]. labels: int64 [B] or int8 [B, K].
    A later attack never takes the place of a success by a failure (the defect of `robustness`, whose last restart counts).
    """
    best = attack()
    if restarts == 1:
        return best
    best_rank = _success_and_loss(model, best, labels, precision)
    for _ in range(restarts - 1):
        again = attack()
        rank = _success_and_loss(model, again, labels, precision)
        (wrong, loss), (best_wrong, best_loss) = rank, best_rank
        better = (wrong & ~best_wrong) | ((wrong == best_wrong) & (loss > best_loss))
        best = torch.where(better.view(-1, 1, 1, 1), again, best)
        best_rank = wrong | best_wrong, torch.where(better, loss, best_loss)
    return best


def _success_and_loss(
    model: nn.Module, images: Tensor, labels: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Whether the model is wrong about each image, bool [B], and its loss [B]."""
    with eval_mode(model), torch.no_grad(), autocast(precision, images.device.type, model):
        logits = model(images).float()
    answers = logits.argmax(1)
    right = answers == labels if labels.ndim == 1 else labels.gather(1, answers[:, None])[:, 0] == 1
    return ~right, image_losses(logits, labels)


def _loss_and_gradient(
    logits_of: Callable[[Tensor], Tensor], iterate: Tensor, labels: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Each image's loss [B], and the direction of its gradient in float32: with fp16, each has a length of its own scale."""
    variable = iterate.detach().requires_grad_()  # shares memory; nothing below writes into it
    with torch.enable_grad():
        loss = _loss(logits_of, variable, labels, precision)
        scaled = loss * _fp16_scale(loss.detach()) if precision == "fp16" else loss
        (gradient,) = torch.autograd.grad(scaled.sum(), variable)
    if precision == "fp16":
        gradient = torch.nan_to_num(
            gradient, nan=0.0, posinf=0.0, neginf=0.0
        )  # overflow: no step in that pixel
    return loss.detach(), gradient


def _fp16_scale(loss: Tensor) -> Tensor:
    """What to multiply each image's loss by, so that its backward pass begins with gradients that float16 can hold.

    The gradient of the true class's logit is 1 - p, with p = exp(-loss): next to nothing for an image that the model is sure
    of, and zero a few layers on. A step has the length that it is told, whatever the gradient's, so each image may be scaled
    by itself: here 1 - p becomes FP16_SCALE.
    """
    return FP16_SCALE / (-torch.expm1(-loss)).clamp(min=FP16_SURE)


def _loss(
    logits_of: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, precision: Precision
) -> Tensor:
    with autocast(precision, images.device.type, logits_of):
        logits = logits_of(images)
    return image_losses(logits.float(), labels)


def ascent(gradient: Tensor, norm: Norm, step_size: float) -> Tensor:
    """The step of that length along each image's gradient [B, 3, R, R]."""
    if norm == "linf":
        return gradient.sign() * step_size
    return gradient * (step_size / (_length(gradient, 2) + TINY))


def project(moved: Tensor, center: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest point of the ball, then the nearest image: clamping only shortens the distance to `center`."""
    return within_ball(moved - center, norm, eps).add_(center).clamp_(0, 1)


def within_ball(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest point of the ball around zero; writes into `delta`."""
    if norm == "linf":
        return delta.clamp_(-eps, eps)
    return delta.mul_(eps / _length(delta, 2).clamp_(min=eps))


def count_zero_gradients(gradient: Tensor, zero_gradients: Tensor) -> None:
    """Add to the counter how many images have no gradient at all."""
    zero_gradients += (_length(gradient, float("inf")) == 0).sum()


def _random_start(
    center: Tensor, norm: Norm, eps: float, generator: torch.Generator | None, *, on_surface: bool
) -> Tensor:
    if norm == "linf":
        noise = torch.rand(center.shape, generator=generator, device=center.device) * 2 - 1
        noise = eps * (noise.sign() if on_surface else noise)
    else:  # a direction, and in the ball a radius whose distribution makes the volume uniform
        noise = torch.randn(center.shape, generator=generator, device=center.device)
        noise *= eps / _length(noise, 2)
        if not on_surface:
            radius = torch.rand((len(center), 1, 1, 1), generator=generator, device=center.device)
            noise *= radius ** (1 / center[0].numel())
    return (center + noise).clamp_(0, 1)


def _better(
    best: Tensor | None, best_loss: Tensor | None, iterate: Tensor, loss: Tensor
) -> tuple[Tensor, Tensor]:
    if best is None or best_loss is None:
        return iterate, loss
    higher = loss > best_loss
    return torch.where(higher.view(-1, 1, 1, 1), iterate, best), torch.where(
        higher, loss, best_loss
    )


def _length(images: Tensor, order: float) -> Tensor:
    """Norm per image, [B, 1, 1, 1]. `images.flatten(1)` would copy channels_last images."""
    length: Tensor = torch.linalg.vector_norm(images, order, dim=(1, 2, 3), keepdim=True)
    return length


@contextmanager
def _constant_parameters(model: nn.Module) -> Iterator[None]:
    """The backward pass then skips the parameters' gradients, about a third of the work."""
    variables = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in variables:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in variables:
            parameter.requires_grad_(True)


def _check(images: Tensor, norm: str, eps: float, steps: int, step_size: float, start: str) -> None:
    if norm not in ("l2", "linf"):
        raise UserError(f"There is no attack norm named '{norm}'.", "Known: l2, linf.")
    if start not in ("none", "ball", "sphere"):
        raise UserError(f"There is no random start named '{start}'.", "Known: none, ball, sphere.")
    if not 0 <= eps < float("inf"):
        raise UserError(f"The attack's eps is {eps}; it is a radius.", "Give 0 or more.")
    if steps < 0:
        raise UserError(f"The attack's number of steps is {steps}.", "Give 0 or more.")
    if not 0 <= step_size < float("inf"):
        raise UserError(
            f"The attack's step size is {step_size}; it is a length.", "Give 0 or more."
        )
    if not images.is_floating_point() or images.ndim != 4:
        raise UserError(
            f"The attack got images of type {images.dtype} and shape {tuple(images.shape)}.",
            "Give floats in [0, 1] of shape [B, 3, R, R]; pixels of a loader are `images.float() / 255`.",
        )
