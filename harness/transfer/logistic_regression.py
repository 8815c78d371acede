"""Logistic regression on features along a path of L2 penalties (Kornblith, Shlens and Le 2019): multinomial, or one binary
fit a class where an image has many labels.

The loss is the sum over images of the cross entropy, plus lambda / 2 times the squared weights; biases are free. In
scikit-learn's terms C = 1 / lambda. The path goes from the strongest penalty to the weakest, each fit from where the one
before ended. Every fit tells its largest gradient and how far its loss can be from the optimum: a solver that stops where it
started looks like one that converged.

Newton's method in float64: the Hessian is solved with where it is small, else by preconditioned conjugate gradients.
L-BFGS, which the paper names, ends at the same optimum where it gets there: under weak penalties it does not within a
thousand iterations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from writers.errors import UserError

LAMBDAS = tuple(np.logspace(-6, 5, 45).tolist())  # Kornblith et al. 2019, A.3
LARGEST_GRADIENT = 1e-6  # per image
LARGEST_GAP = 1e-7  # nats per image
MOST_STEPS = 200  # of Newton
MOST_PRODUCTS = 250  # with the Hessian, in a step
MOST_SOLVED = 2000  # weights for which the Hessian itself is made and solved with
SHRINK, ENOUGH = 0.5, 1e-4  # line search


@dataclass(frozen=True)
class Fit:
    """Weights [D, K] and biases [K] for one penalty."""

    penalty: float
    weights: Tensor
    biases: Tensor
    loss: float  # of the whole objective
    largest_gradient: float  # per image
    gap: float  # per image: the loss is at most so far above the optimum, by strong convexity in the weights
    num_iterations: int  # passes over the features

    @property
    def converged(self) -> bool:
        return self.largest_gradient <= LARGEST_GRADIENT and self.gap <= LARGEST_GAP

    def logits(self, features: Tensor) -> Tensor:
        return features.to(self.weights.dtype) @ self.weights + self.biases


@dataclass(frozen=True)
class Standardisation:
    """Feature means and deviations of the training images, taken out of all."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


@dataclass(frozen=True)
class Chosen:
    """The fit on all training images with the penalty that validation chose."""

    fit: Fit
    scores: dict[float, float]  # penalty -> score on the images held out
    path: list[Fit]  # on train alone
    at_the_edge: (
        bool  # the best penalty is the first or last of the path: a wider one might be better
    )

    @property
    def converged(self) -> dict[float, bool]:
        return {fitted.penalty: fitted.converged for fitted in self.path}


def standardisation(features: Tensor) -> Standardisation:
    deviation = features.std(dim=0, correction=0)
    return Standardisation(
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
    """Fits for all penalties, strongest first. features [N, D] on any device; labels int64 [N], or int8 [N, K] (1 there, 0
    difficult: left out, -1 not). stop: is called before each fit, and may raise."""
    problem = _Problem(features, labels, num_classes)
    found = []
    weights = torch.zeros(
        features.shape[1] + 1, num_classes, dtype=torch.float64, device=features.device
    )
    for penalty in sorted(penalties, reverse=True):
        stop()
        fitted, weights = _minimise(problem, penalty, weights)
        found.append(fitted)
    return found


def choose(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    num_classes: int,
    score: Callable[[Tensor, Tensor], float],
    penalties: Iterable[float] = LAMBDAS,
    *,
    stop: Callable[[], None] = lambda: None,
) -> Chosen:
    """Fit on train, choose the penalty by `score(logits, labels)` on val (of equals the stronger), fit on both together."""
    path = fit_path(*train, num_classes, penalties, stop=stop)
    scores = {fitted.penalty: score(fitted.logits(val[0]), val[1]) for fitted in path}
    best = max(path, key=lambda fitted: (scores[fitted.penalty], fitted.penalty))
    both = _Problem(torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]]), num_classes)
    refitted, _ = _minimise(both, best.penalty, both.turned(best))
    return Chosen(
        refitted,
        scores,
        path,
        best.penalty in (path[0].penalty, path[-1].penalty) and len(path) > 1,
    )


class _Problem:
    """The images of a fit, with features turned so that they do not correlate: the penalty is the same in any basis, and the
    Hessian's diagonal says most of it then. A column of ones is for the biases."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        if len(features) != len(labels) or not len(features):
            raise UserError(f"There are {len(features)} features and {len(labels)} labels.")
        features = features.double()
        self.basis = torch.linalg.eigh(features.T @ features)[1]
        self.features = torch.cat(
            [features @ self.basis, features.new_ones(len(features), 1)], dim=1
        )
        self.squares = self.features.square()
        self.labels, self.num_classes = labels, num_classes
        if labels.ndim == 2:
            self.there, self.sure = (labels == 1).double(), (labels != 0).double()
        else:
            self.there = functional.one_hot(labels, num_classes).double()

    def turned(self, fit: Fit) -> Tensor:
        """A fit's weights and biases in this basis, [D + 1, K]."""
        return torch.cat([self.basis.T @ fit.weights, fit.biases[None]])

    def loss(self, logits: Tensor) -> Tensor:
        if self.labels.ndim == 1:
            return functional.cross_entropy(logits, self.labels, reduction="sum")
        return functional.binary_cross_entropy_with_logits(
            logits, self.there, weight=self.sure, reduction="sum"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.labels.ndim == 1 else logits.sigmoid()

    def slopes(self, probabilities: Tensor) -> Tensor:
        """Of the loss, at each logit: [N, K]."""
        slopes = probabilities - self.there
        return slopes if self.labels.ndim == 1 else slopes * self.sure

    def curved(self, probabilities: Tensor, change: Tensor) -> Tensor:
        """How the slopes change with the logits: [N, K]."""
        if self.labels.ndim == 2:
            return self.sure * probabilities * (1 - probabilities) * change
        weighted = probabilities * change
        return weighted - probabilities * weighted.sum(1, keepdim=True)

    def without_shift(self, step: Tensor) -> Tensor:
        """A softmax does not see what all classes have in common: along that, only the penalty is curved, and a step that
        had a part there would take ten thousand products with the Hessian to lose it."""
        return step - step.mean(1, keepdim=True) if self.labels.ndim == 1 else step

    def diagonal(self, probabilities: Tensor) -> Tensor:
        """Of the Hessian of the loss: [D + 1, K]."""
        own = probabilities * (1 - probabilities)
        return self.squares.T @ (own if self.labels.ndim == 1 else own * self.sure)


def _minimise(problem: _Problem, penalty: float, weights: Tensor) -> tuple[Fit, Tensor]:
    """The fit, and its weights in the problem's basis, biases last. All per image, so that tolerances mean the same."""
    features, num_images = problem.features, len(problem.features)
    penalties = torch.full_like(weights, penalty / num_images)
    penalties[-1] = 0  # biases

    def objective(at: Tensor, logits: Tensor) -> float:
        return float(problem.loss(logits) / num_images + (penalties * at.square()).sum() / 2)

    logits = features @ weights
    value, num_passes = objective(weights, logits), 1
    for _ in range(MOST_STEPS):
        probabilities = problem.probabilities(logits)
        gradient = features.T @ problem.slopes(probabilities) / num_images + penalties * weights
        num_passes += 1
        largest, gap = float(gradient.abs().max()), _gap(gradient, penalty, num_images)
        if largest <= LARGEST_GRADIENT / 2 and gap <= LARGEST_GAP / 2:
            break
        solved = (
            _solved(problem, probabilities, gradient, penalties)
            if weights.numel() <= MOST_SOLVED
            else None
        )
        step, num_products = solved or _newton_step(problem, probabilities, gradient, penalties)
        num_passes += num_products
        moved = features @ step
        num_passes += 1
        slope, length = float((gradient * step).sum()), 1.0
        while True:
            tried = objective(weights + length * step, logits + length * moved)
            if tried <= value + ENOUGH * length * slope or length < 1e-8:
                break
            length *= SHRINK
        if tried >= value and length < 1e-8:  # rounding is all that is left
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
    """|gradient|^2 / (2 lambda), per image."""
    return float(gradient.square().sum()) * num_images / (2 * penalty)


def _solved(
    problem: _Problem, probabilities: Tensor, gradient: Tensor, penalties: Tensor
) -> tuple[Tensor, int] | None:
    """Minus the inverse Hessian times the gradient, and passes over the features; None where rounding leaves it without."""
    features, (num_rows, num_classes) = problem.features, gradient.shape
    hessian = gradient.new_zeros(num_rows, num_classes, num_rows, num_classes)
    for one in range(num_classes):
        curved = problem.curved(
            probabilities,
            functional.one_hot(torch.tensor([one], device=gradient.device), num_classes).double(),
        )  # [N, K]
        for other in range(one, num_classes if problem.labels.ndim == 1 else one + 1):
            block = features.T @ (curved[:, other : other + 1] * features) / len(features)
            hessian[:, one, :, other], hessian[:, other, :, one] = block, block
    flat = hessian.reshape(gradient.numel(), gradient.numel())
    flat.diagonal().add_(penalties.flatten())
    if (
        problem.labels.ndim == 1
    ):  # biases that move together change nothing, and the gradient has no part there
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
    """Minus the inverse Hessian times the gradient, about, and how often features were gone through for it.

    Conjugate gradients, preconditioned by the Hessian's diagonal, until the rest is small against the gradient (Nocedal and
    Wright 2006, algorithm 7.1).
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
    while number < MOST_PRODUCTS:
        number += 1
        curved = (
            features.T @ problem.curved(probabilities, features @ direction) / num_images
            + penalties * direction
        )
        curvature = float((direction * curved).sum())
        if curvature <= 0:  # by rounding alone: the loss is convex
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
