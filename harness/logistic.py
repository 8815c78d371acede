"""Multinomial logistic regression on features, by L-BFGS, along a path of L2 penalties (Kornblith, Shlens and Le 2019).

The loss is the sum over images of the cross entropy, plus lambda / 2 times the squared weights; biases are free. In
scikit-learn's terms C = 1 / lambda. The path goes from the strongest penalty to the weakest, each fit from where the one
before ended. Every fit tells its largest gradient: a solver that stops where it started looks like one that converged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from writers.errors import UserError

LAMBDAS = tuple(np.logspace(-6, 5, 45).tolist())        # Kornblith et al. 2019, A.3
MOST_ITERATIONS = 1000
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5}     # of the largest gradient, per image: what rounding lets one reach


@dataclass(frozen=True)
class Fit:
    """Weights [D, K] and biases [K] for one penalty."""

    penalty: float
    weights: Tensor
    biases: Tensor
    loss: float                 # of the whole objective
    largest_gradient: float     # per image
    tolerance: float            # what it should be; more under a strong penalty, whose own gradient is rounded
    num_iterations: int

    @property
    def converged(self) -> bool:
        return self.largest_gradient <= self.tolerance

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.weights + self.biases


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
    scores: dict[float, float]      # penalty -> score on the images held out
    converged: dict[float, bool]
    at_the_edge: bool               # the best penalty is the first or last of the path: a wider one might be better


def standardisation(features: Tensor) -> Standardisation:
    deviation = features.std(dim=0, correction=0)
    return Standardisation(features.mean(dim=0), torch.where(deviation > 0, deviation, torch.ones_like(deviation)))


def fit_path(features: Tensor, labels: Tensor, num_classes: int, penalties: Iterable[float] = LAMBDAS) -> list[Fit]:
    """Fits for all penalties, strongest first. features [N, D] on any device, labels int64 [N]."""
    if len(features) != len(labels) or not len(features):
        raise UserError(f"There are {len(features)} features and {len(labels)} labels.")
    weights = torch.zeros(features.shape[1], num_classes, dtype=features.dtype, device=features.device)
    biases = torch.zeros(num_classes, dtype=features.dtype, device=features.device)
    found = []
    for penalty in sorted(penalties, reverse=True):
        fitted = _minimise(features, labels, penalty, weights, biases)
        found.append(fitted)
        weights, biases = fitted.weights, fitted.biases
    return found


def choose(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], num_classes: int, score: Callable[[Tensor, Tensor], float],
           penalties: Iterable[float] = LAMBDAS) -> Chosen:
    """Fit on train, choose the penalty by `score(logits, labels)` on val (of equals the stronger), fit on both together.

    The path is walked in the features' own precision; the last fit is in float64.
    """
    path = fit_path(*train, num_classes, penalties)
    scores = {fitted.penalty: score(fitted.logits(val[0]), val[1]) for fitted in path}
    best = max(path, key=lambda fitted: (scores[fitted.penalty], fitted.penalty))
    both = torch.cat([train[0], val[0]]).double(), torch.cat([train[1], val[1]])
    refitted = _minimise(*both, best.penalty, best.weights.double(), best.biases.double())
    return Chosen(refitted, scores, {fitted.penalty: fitted.converged for fitted in path},
                  best.penalty in (path[0].penalty, path[-1].penalty) and len(path) > 1)


def _minimise(features: Tensor, labels: Tensor, penalty: float, weights: Tensor, biases: Tensor) -> Fit:
    weights, biases = weights.clone().requires_grad_(True), biases.clone().requires_grad_(True)
    num_images, tolerance = len(features), TOLERANCES[features.dtype]
    optimizer = torch.optim.LBFGS([weights, biases], max_iter=MOST_ITERATIONS, max_eval=2 * MOST_ITERATIONS,
                                  tolerance_grad=tolerance / 2, tolerance_change=0, history_size=10,
                                  line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        """Per image, so that tolerances mean the same for all sizes."""
        optimizer.zero_grad()
        logits = features @ weights + biases
        loss = (functional.cross_entropy(logits, labels, reduction="sum") + penalty / 2 * weights.square().sum()) / num_images
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[arg-type]
        loss = objective()
    assert weights.grad is not None and biases.grad is not None
    largest = max(float(weights.grad.abs().max()), float(biases.grad.abs().max()))
    iterations = optimizer.state[weights]["n_iter"]
    return Fit(penalty, weights.detach(), biases.detach(), float(loss.detach()) * num_images, largest,
               tolerance * max(1.0, penalty / num_images), int(iterations))
