"""Projected gradient ascent on pixels, for adversarial training and robust evaluation.

The attack is that of Madry et al. 2018, computed as in the `robustness` library (Engstrom et al.
2019). Each step is normalized per image, the perturbed image is projected onto the eps-ball and
clamped to [0, 1], and the model is in evaluation mode. The attack differs from that library on
purpose in three points:

- The loss is summed over the batch. A mean would divide each image's gradient by the batch size,
  and float16 could round the quotient to zero.
- By default, a random L2 start is uniform in the ball, not on its surface.
- By default, the last iterate is returned. The library returns the iterate of highest loss, which
  costs one more forward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.modeling.module_modes import attack_mode, eval_mode
from harness.modeling.precision import Precision, autocast
from harness.train.loss import image_losses, is_correct
from writers.errors import UserError

# Maps uint8 images and labels to float images in [0, 1]; `no_attack` returns uint8 images.
Attack = Callable[[Tensor, Tensor], Tensor]
Norm = Literal["l2", "linf"]
Start = Literal["none", "ball", "sphere"]
TINY = 1e-10  # keeps the L2 step finite if a gradient is zero, as in `robustness`
# In fp16, the loss is scaled so that each image's backward pass starts with about this gradient.
# bf16 needs no scaling: its exponent range is that of float32.
FP16_SCALE = 256.0
# Lower bound of 1 - p, with p the probability of the true class. It limits an image's loss scale to
# FP16_SCALE / FP16_MIN_ERROR.
FP16_MIN_ERROR = 2.0**-20


def pgd_update(
    iterate: Tensor, gradient: Tensor, center: Tensor, norm: Norm, eps: float, step_size: float
) -> Tensor:
    """Take a normalized ascent step, project onto the ball, clamp, and return the next iterate.

    On a CPU the result equals `project(iterate + ascent(gradient, norm, step_size), center, norm,
    eps)` bit for bit. torch.compile turns this function into a few kernels; the compiled result
    differs in the last bits.

    Args:
        iterate: float32 [B, 3, R, R] in [0, 1].
        gradient: Gradient of the loss, of the same shape.
        center: Clean images, float32 [B, 3, R, R], around which the ball is centered.
        norm: Norm of the ball.
        eps: Radius of the ball in units of [0, 1] pixels.
        step_size: Length of the step in the same units.
    """
    step = ascent(gradient, norm, step_size).add_(iterate).sub_(center)
    return within_ball(step, norm, eps).add_(center).clamp_(0, 1)


PgdUpdate = Callable[[Tensor, Tensor, Tensor, Norm, float, float], Tensor]  # see `pgd_update`


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
    update: PgdUpdate = pgd_update,
) -> Tensor:
    """Search within `eps` of the given images for images of higher loss.

    Does not change the model's modes, buffers, parameters or gradients, and never waits for the
    GPU.

    Args:
        model: Maps images to logits [B, K].
        images: float [B, 3, R, R] in [0, 1]; not modified.
        labels: classes, int64 [B]; several labels, int8 [B, K]; or probabilities, float32
            [B, K]. See `image_losses`.
        norm: Norm of the ball; L2 is over all values of an image.
        eps: Radius of the ball in units of [0, 1] pixels.
        steps: Number of gradient steps.
        step_size: Length of a step in the same units.
        random_start: Start of the attack. True or "ball": a random point in the ball. "sphere": a
            random point on its surface; for linf, one of its corners. False or "none": the image.
        best_iterate: True returns each image's iterate of highest loss, including the start, and
            costs one more forward pass. False returns the last iterate.
        batch_norm: "train" uses the statistics of the attacked batch in each BatchNorm that is in
            training mode; "eval" uses running statistics.
        generator: Source of random starts, on the device of the images.
        precision: Number format of forward and backward passes.
        zero_gradients: int64 scalar, to which the number of gradients that are zero everywhere is
            added. Low precision causes such gradients, and the step then does not move the image.
        logits_of: Compiled form of the model; None calls the model.
        update: `pgd_update`, or a compiled form of it.

    Returns:
        float32 images in [0, 1]; the input itself if eps or steps is 0.

    Raises:
        UserError: a setting is out of range, or the images are not floats of four dimensions.
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
            iterate = update(iterate, gradient, center, norm, eps, step_size)
        if best_iterate:
            with torch.no_grad():
                loss = _loss(logits_of, iterate, labels, precision)
            iterate, _ = _better(best, best_loss, iterate, loss)
    return iterate


class PgdAttack:
    """Attack with given settings, in training or evaluation.

    It is PGD, or its one-step variant `fast` (Wong et al. 2020).

    Attributes:
        generator: Source of random starts.
        zero_gradients: int64 scalar that counts gradients that are zero everywhere.
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
        update: PgdUpdate = pgd_update,
    ) -> None:
        """Create the attack.

        Args:
            model: The attacked model.
            settings: Norm, number and length of steps, and random start.
            eps: Radius in units of [0, 1] pixels; `settings.eps_of` adapts it to the resolution.
            precision: Number format of the passes.
            logits_of: The model, or a compiled form of it.
            generator: Source of random starts, on the device of the images.
            zero_gradients: int64 scalar counter on that device.
            update: `pgd_update`, or a compiled form of it.
        """
        self._pgd_update = update
        self._model, self._settings, self._eps = model, settings, eps
        self._precision, self._logits_of = precision, logits_of
        self.generator, self.zero_gradients = generator, zero_gradients

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the attacked images, float32 [B, 3, R, R] in [0, 1].

        Args:
            images: uint8 [B, 3, R, R].
            labels: classes, int64 [B]; several labels, int8 [B, K]; or probabilities, float32
                [B, K]. See `image_losses`.
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
            update=self._pgd_update,
        )


def no_attack(images: Tensor, labels: Tensor) -> Tensor:
    """Return the images, uint8 [B, 3, R, R], unchanged: the attack of training on clean images."""
    return images


def best_of_restarts(
    attack: Callable[[], Tensor],
    model: nn.Module,
    labels: Tensor,
    restarts: int,
    precision: Precision,
) -> Tensor:
    """Repeat an attack and keep each image's best result.

    A result that the model misclassifies is better than one that it classifies correctly. Among
    equals, the higher loss is better. A failed restart thus never replaces a successful one, as it
    can in `robustness`, which keeps the last restart.

    Args:
        attack: Runs `pgd` from a new random start; returns images [B, 3, R, R].
        model: Model that `attack` attacks; it classifies the results.
        labels: int64 [B] or int8 [B, K].
        restarts: Number of attacks.
        precision: Number format of the comparison.

    Returns:
        Images [B, 3, R, R].
    """
    best = attack()
    if restarts == 1:
        return best
    best_rank = _success_and_loss(model, best, labels, precision)
    for _ in range(restarts - 1):
        candidate = attack()
        rank = _success_and_loss(model, candidate, labels, precision)
        (wrong, loss), (best_wrong, best_loss) = rank, best_rank
        better = (wrong & ~best_wrong) | ((wrong == best_wrong) & (loss > best_loss))
        best = torch.where(better.view(-1, 1, 1, 1), candidate, best)
        best_rank = wrong | best_wrong, torch.where(better, loss, best_loss)
    return best


def _success_and_loss(
    model: nn.Module, images: Tensor, labels: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Return which images the model misclassifies, bool [B], and the losses [B]."""
    with eval_mode(model), torch.no_grad(), autocast(precision, images.device.type, model):
        logits = model(images).float()
    return ~is_correct(logits, labels), image_losses(logits, labels)


def _loss_and_gradient(
    logits_of: Callable[[Tensor], Tensor], iterate: Tensor, labels: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Return each image's loss [B] and float32 gradient; with fp16, each gradient is scaled."""
    variable = iterate.detach().requires_grad_()  # shares memory; nothing below writes to it
    with torch.enable_grad():
        loss = _loss(logits_of, variable, labels, precision)
        scaled = loss * _fp16_scale(loss.detach()) if precision == "fp16" else loss
        (gradient,) = torch.autograd.grad(scaled.sum(), variable)
    if precision == "fp16":
        # A gradient that overflowed becomes 0, so the attack does not move that pixel.
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return loss.detach(), gradient


def _fp16_scale(loss: Tensor) -> Tensor:
    """Return factors [B] for the images' losses that keep the gradients in float16's range.

    The loss has the gradient p - 1 at the true class's logit, with p = exp(-loss). If the model is
    confident, 1 - p is tiny and the gradient underflows after a few layers of the backward pass.
    Steps have a fixed length, so the factor may differ between images. It scales 1 - p to
    FP16_SCALE.
    """
    return FP16_SCALE / (-torch.expm1(-loss)).clamp(min=FP16_MIN_ERROR)


def _loss(
    logits_of: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, precision: Precision
) -> Tensor:
    with autocast(precision, images.device.type, logits_of):
        logits = logits_of(images)
    return image_losses(logits.float(), labels)


def ascent(gradient: Tensor, norm: Norm, step_size: float) -> Tensor:
    """Return the step of length `step_size` along each image's gradient [B, 3, R, R]."""
    if norm == "linf":
        return gradient.sign() * step_size
    return gradient * (step_size / (_norm(gradient, 2) + TINY))


def project(pixels: Tensor, center: Tensor, norm: Norm, eps: float) -> Tensor:
    """Project images onto the ball of radius eps around `center`, then clamp them to [0, 1].

    Clamped images stay in the ball: `center` is in [0, 1], so clamping only shortens the distance
    to it. All images are [B, 3, R, R].
    """
    return within_ball(pixels - center, norm, eps).add_(center).clamp_(0, 1)


def within_ball(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """Project `delta` [B, 3, R, R] onto the ball of radius eps around zero, in place."""
    if norm == "linf":
        return delta.clamp_(-eps, eps)
    return delta.mul_(eps / _norm(delta, 2).clamp_(min=eps))


def count_zero_gradients(gradient: Tensor, zero_gradients: Tensor) -> None:
    """Add the number of images whose gradient is zero everywhere to the counter.

    Args:
        gradient: [B, 3, R, R].
        zero_gradients: int64 scalar counter on the same device.
    """
    zero_gradients += (_norm(gradient, float("inf")) == 0).sum()


def _random_start(
    center: Tensor, norm: Norm, eps: float, generator: torch.Generator | None, *, on_surface: bool
) -> Tensor:
    if norm == "linf":
        noise = torch.rand(center.shape, generator=generator, device=center.device) * 2 - 1
        noise = eps * (noise.sign() if on_surface else noise)
    else:  # a random direction; in the ball, also a random radius that makes the points uniform
        noise = torch.randn(center.shape, generator=generator, device=center.device)
        noise *= eps / _norm(noise, 2)
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


def _norm(images: Tensor, order: float) -> Tensor:
    """Compute the norm of each image, [B, 1, 1, 1], without copying channels_last images."""
    length: Tensor = torch.linalg.vector_norm(images, order, dim=(1, 2, 3), keepdim=True)
    return length


@contextmanager
def _constant_parameters(model: nn.Module) -> Iterator[None]:
    """Skip the parameters' gradients inside the block, which saves about a third of a step."""
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
        raise UserError(f"There is no attack norm named '{norm}'.", "Use l2 or linf.")
    if start not in ("none", "ball", "sphere"):
        raise UserError(f"There is no random start named '{start}'.", "Use none, ball or sphere.")
    if not 0 <= eps < float("inf"):
        raise UserError(f"The attack's eps is {eps}, which is not a radius.", "Use 0 or more.")
    if steps < 0:
        raise UserError(f"The attack's number of steps is {steps}.", "Use 0 or more.")
    if not 0 <= step_size < float("inf"):
        raise UserError(
            f"The attack's step size is {step_size}, which is not a length.", "Use 0 or more."
        )
    if not images.is_floating_point() or images.ndim != 4:
        raise UserError(
            f"The attack received images of type {images.dtype} and shape {tuple(images.shape)}.",
            "Pass floats in [0, 1] of shape [B, 3, R, R], such as `images.float() / 255`.",
        )
