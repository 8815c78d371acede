"""Fit logistic regressions on features with a series of L2 penalties (Kornblith et al. 2019).

The regression is multinomial, or has one binary fit per class if images have several labels. The
objective is the cross-entropy summed over images, plus lambda / 2 times the sum of squared weights;
biases are not penalized. scikit-learn's C is 1 / lambda. Penalties are fitted from the strongest to
the weakest, and each fit starts from the previous solution. A solver that is stuck looks like one
that has converged. Each fit therefore reports its largest gradient, and an upper bound on the
difference between its loss and the optimum.

The solver is Newton's method in float64. The linear system with the Hessian is solved directly if
it is small, and otherwise by preconditioned conjugate gradients. The paper's solver, L-BFGS, has
the same optimum, but with weak penalties it does not reach it within a thousand iterations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from harness.transfer.methods.logreg.settings import LAMBDAS
from writers.errors import UserError
from writers.text_names import counted

# A fit has converged if its largest gradient and its gap (see `Fit`), both per image, are at most
# these.
MAX_GRADIENT = 1e-6
MAX_GAP = 1e-7  # nats
MAX_STEPS = 200  # Newton iterations
MAX_PRODUCTS = 250  # products with the Hessian in a Newton iteration
MAX_SOLVED_SIZE = 2000  # number of weights up to which the Hessian is built and solved directly
SHRINK, MIN_DECREASE = 0.5, 1e-4  # line search: factor on the step, and Armijo's constant


@dataclass(frozen=True)
class Fit:
    """Solution for one penalty, with weights [D, K] and biases [K]."""

    penalty: float
    weights: Tensor
    biases: Tensor
    loss: float  # value of the objective, penalty included
    largest_gradient: float  # largest absolute value of the gradient, per image
    # Upper bound, per image, on the loss minus the optimum, by strong convexity in the weights.
    gap: float
    num_iterations: int  # number of passes over the features

    @property
    def converged(self) -> bool:
        """True if `largest_gradient` is at most MAX_GRADIENT and `gap` is at most MAX_GAP."""
        return self.largest_gradient <= MAX_GRADIENT and self.gap <= MAX_GAP

    def logits(self, features: Tensor) -> Tensor:
        """Map features [N, D] to logits [N, K]."""
        return features.to(self.weights.dtype) @ self.weights + self.biases


@dataclass(frozen=True)
class Standardization:
    """Standardize features by the means and standard deviations, [D], of the training images."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Standardize features [N, D]."""
        return (features - self.mean) / self.deviation


@dataclass(frozen=True)
class SelectedFit:
    """The final fit, with the penalty that validation chose.

    Attributes:
        fit: fit with the chosen penalty on train and val together, or on train only.
        scores: penalty -> score on val.
        path: one fit per penalty, on train only.
        at_the_edge: True if the chosen penalty is the largest or smallest one, so that a penalty
            outside the range might be better.
    """

    fit: Fit
    scores: dict[float, float]
    path: list[Fit]
    at_the_edge: bool

    @property
    def converged(self) -> dict[float, bool]:
        """Map each penalty of the path to True if its fit has converged."""
        return {fitted.penalty: fitted.converged for fitted in self.path}


def standardization(features: Tensor) -> Standardization:
    """Compute mean and standard deviation of each column of features [N, D].

    A constant column gets the deviation 1.
    """
    deviation = features.std(dim=0, correction=0)
    return Standardization(
        features.mean(dim=0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    )


def fit_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalties: Iterable[float] = LAMBDAS,
    *,
    stop: Callable[[], None] = lambda: None,
) -> list[Fit]:
    """Fit a regression with each penalty, the strongest first.

    Args:
        features: [N, D], on any device.
        labels: int64 [N], or int8 [N, K] with 1 present, 0 difficult (ignored), -1 absent.
        num_classes: K.
        penalties: values of lambda.
        stop: called before each fit; may raise an exception, which ends the fits.

    Raises:
        UserError: there are no images, or features and labels differ in number.
    """
    problem = _Problem(features, labels, num_classes)
    fits = []
    weights = torch.zeros(
        features.shape[1] + 1, num_classes, dtype=torch.float64, device=features.device
    )
    for penalty in sorted(penalties, reverse=True):
        stop()
        fitted, weights = _minimize(problem, penalty, weights)
        fits.append(fitted)
    return fits


def select_penalty(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    num_classes: int,
    score: Callable[[Tensor, Tensor], float],
    penalties: Iterable[float] = LAMBDAS,
    *,
    refit_on_val: bool = True,
    stop: Callable[[], None] = lambda: None,
) -> SelectedFit:
    """Choose a penalty on val, and fit a regression with it on train and val together.

    Args:
        train: features [N, D] and labels, int64 [N] or int8 [N, K], as in `fit_path`.
        val: features and labels of other images, of the same form.
        num_classes: K.
        score: called with logits and labels of val; the penalty with the highest score is chosen.
            If scores are equal, the stronger penalty is chosen.
        penalties: values of lambda.
        refit_on_val: False skips the fit on train and val; the result is then the fit on train.
        stop: called before each fit on train; may raise an exception, which ends the fits.

    Raises:
        UserError: train has no images, or features and labels differ in number.
    """
    path = fit_path(*train, num_classes, penalties, stop=stop)
    scores = {fitted.penalty: score(fitted.logits(val[0]), val[1]) for fitted in path}
    best = max(path, key=lambda fitted: (scores[fitted.penalty], fitted.penalty))
    at_the_edge = best.penalty in (path[0].penalty, path[-1].penalty) and len(path) > 1
    if not refit_on_val:
        return SelectedFit(best, scores, path, at_the_edge)
    both = _Problem(torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]]), num_classes)
    refitted, _ = _minimize(both, best.penalty, both.rotate(best))
    return SelectedFit(refitted, scores, path, at_the_edge)


class _Problem:
    """Features and labels of a fit. The features are rotated so that columns are orthogonal.

    A rotation does not change the penalty, and brings the Hessian close to a diagonal matrix. The
    biases are the weights of an additional column of ones.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        if len(features) != len(labels) or not len(features):
            raise UserError(
                f"There are {len(features)} features and {counted(len(labels), 'label')}."
            )
        features = features.double()
        self.basis = torch.linalg.eigh(features.T @ features)[1]
        self.features = torch.cat(
            [features @ self.basis, features.new_ones(len(features), 1)], dim=1
        )
        self.squares = self.features.square()
        self.labels, self.num_classes = labels, num_classes
        if labels.ndim == 2:
            self.targets, self.is_counted = (labels == 1).double(), (labels != 0).double()
        else:
            self.targets = functional.one_hot(labels, num_classes).double()

    def rotate(self, fit: Fit) -> Tensor:
        """Return a fit's weights and biases in the rotated basis, [D + 1, K]."""
        return torch.cat([self.basis.T @ fit.weights, fit.biases[None]])

    def loss(self, logits: Tensor) -> Tensor:
        if self.labels.ndim == 1:
            return functional.cross_entropy(logits, self.labels, reduction="sum")
        return functional.binary_cross_entropy_with_logits(
            logits, self.targets, weight=self.is_counted, reduction="sum"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.labels.ndim == 1 else logits.sigmoid()

    def logit_gradient(self, probabilities: Tensor) -> Tensor:
        """Return the gradient of the loss with respect to the logits, [N, K]."""
        logit_gradient = probabilities - self.targets
        return logit_gradient if self.labels.ndim == 1 else logit_gradient * self.is_counted

    def hessian_product(self, probabilities: Tensor, change: Tensor) -> Tensor:
        """Multiply the Hessian with respect to the logits by a `change` of the logits, [N, K]."""
        if self.labels.ndim == 2:
            return self.is_counted * probabilities * (1 - probabilities) * change
        weighted = probabilities * change
        return weighted - probabilities * weighted.sum(1, keepdim=True)

    def without_shift(self, step: Tensor) -> Tensor:
        """Remove from a step the component that is equal for all classes, which a softmax ignores.

        Only the penalty has curvature along this component, so conjugate gradients would need ten
        thousand products with the Hessian to remove it from a step.
        """
        return step - step.mean(1, keepdim=True) if self.labels.ndim == 1 else step

    def diagonal(self, probabilities: Tensor) -> Tensor:
        """Return the diagonal of the Hessian of the loss, [D + 1, K]."""
        own = probabilities * (1 - probabilities)
        return self.squares.T @ (own if self.labels.ndim == 1 else own * self.is_counted)


def _minimize(problem: _Problem, penalty: float, weights: Tensor) -> tuple[Fit, Tensor]:
    """Minimize the objective; return the fit, and its weights in the rotated basis, biases last.

    Loss and penalty are divided by the number of images, so that tolerances do not depend on it.
    """
    features, num_images = problem.features, len(problem.features)
    penalties = torch.full_like(weights, penalty / num_images)
    penalties[-1] = 0  # biases are not penalized

    def objective(at: Tensor, logits: Tensor) -> float:
        return float(problem.loss(logits) / num_images + (penalties * at.square()).sum() / 2)

    logits = features @ weights
    value, num_passes = objective(weights, logits), 1
    for _ in range(MAX_STEPS):
        probabilities = problem.probabilities(logits)
        gradient = (
            features.T @ problem.logit_gradient(probabilities) / num_images + penalties * weights
        )
        num_passes += 1
        largest, gap = float(gradient.abs().max()), _gap(gradient, penalty, num_images)
        if largest <= MAX_GRADIENT / 2 and gap <= MAX_GAP / 2:
            break
        solved = (
            _solve_newton(problem, probabilities, gradient, penalties)
            if weights.numel() <= MAX_SOLVED_SIZE
            else None
        )
        step, num_products = solved or _newton_step(problem, probabilities, gradient, penalties)
        num_passes += num_products
        moved = features @ step
        num_passes += 1
        slope, length = float((gradient * step).sum()), 1.0
        while True:
            tried = objective(weights + length * step, logits + length * moved)
            if tried <= value + MIN_DECREASE * length * slope or length < 1e-8:
                break
            length *= SHRINK
        if tried >= value and length < 1e-8:  # only rounding errors are left
            break
        weights, logits, value = weights + length * step, logits + length * moved, tried
    fit = Fit(
        penalty,
        problem.basis @ weights[:-1],
        weights[-1].clone(),
        value * num_images,
        largest,
        gap,
        num_passes,
    )
    return fit, weights


def _gap(gradient: Tensor, penalty: float, num_images: int) -> float:
    """Bound the objective minus its optimum by |gradient|^2 / (2 lambda), per image."""
    return float(gradient.square().sum()) * num_images / (2 * penalty)


def _solve_newton(
    problem: _Problem, probabilities: Tensor, gradient: Tensor, penalties: Tensor
) -> tuple[Tensor, int] | None:
    """Compute the Newton step by building the Hessian and solving the linear system.

    Returns:
        The step and the number of passes over the features; None if rounding makes the Hessian
        singular.
    """
    features, (num_rows, num_classes) = problem.features, gradient.shape
    hessian = gradient.new_zeros(num_rows, num_classes, num_rows, num_classes)
    for first in range(num_classes):
        # [N, K]
        curved = problem.hessian_product(
            probabilities,
            functional.one_hot(torch.tensor([first], device=gradient.device), num_classes).double(),
        )
        for other in range(first, num_classes if problem.labels.ndim == 1 else first + 1):
            block = features.T @ (curved[:, other : other + 1] * features) / len(features)
            hessian[:, first, :, other], hessian[:, other, :, first] = block, block
    flat = hessian.reshape(gradient.numel(), gradient.numel())
    flat.diagonal().add_(penalties.flatten())
    # An equal shift of all biases does not change a softmax, so the Hessian is singular along it.
    # The gradient has no component along this shift, so adding curvature there changes no step.
    if problem.labels.ndim == 1:
        flat.reshape(hessian.shape)[-1, :, -1, :] += 1 / num_classes
    factor, failed = torch.linalg.cholesky_ex(flat)
    if int(failed):
        return None
    return -torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape(
        gradient.shape
    ), num_classes


def _newton_step(
    problem: _Problem, probabilities: Tensor, gradient: Tensor, penalties: Tensor
) -> tuple[Tensor, int]:
    """Approximate the Newton step by conjugate gradients, and count passes over the features.

    The conjugate gradients are preconditioned by the Hessian's diagonal, and stop if the residual
    is small relative to the gradient (Nocedal and Wright 2006, algorithm 7.1).
    """
    features, num_images = problem.features, len(problem.features)
    diagonal = problem.diagonal(probabilities) / num_images + penalties
    diagonal = diagonal.clamp(min=float(diagonal.max()) * 1e-14)
    step, rest = torch.zeros_like(gradient), -gradient
    size = float(gradient.norm())
    enough = min(0.1, size**0.5) * size
    solved = problem.without_shift(rest / diagonal)
    direction, descent = solved, float((rest * solved).sum())
    number = 0
    while number < MAX_PRODUCTS:
        number += 1
        curved = (
            features.T @ problem.hessian_product(probabilities, features @ direction) / num_images
            + penalties * direction
        )
        curvature = float((direction * curved).sum())
        if curvature <= 0:  # a rounding error, because the loss is convex
            break
        length = descent / curvature
        step = step + length * direction
        rest = rest - length * curved
        if float(rest.norm()) <= enough:
            break
        solved = problem.without_shift(rest / diagonal)
        before, descent = descent, float((rest * solved).sum())
        direction = solved + descent / before * direction
    return (step if step.any() else problem.without_shift(-gradient / diagonal)), 2 * number + 1
