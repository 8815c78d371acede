"""Linear probe: logistic regression on frozen features.

The penalty is chosen on val, or on a random fifth of train if there is no val. A fit with this
penalty on train and val together is then scored once, on test.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.transfer import logistic_regression
from harness.transfer.features import Features
from writers.errors import UserError

HELD_OUT = 0.2  # fraction of train that is held out to select the penalty if there is no val


def linear_probe(
    train: Features, val: Features | None, test: Features | None, *, device: str = "cpu"
) -> dict[str, Any]:
    """Fit a linear probe, and score it on test.

    Features are standardized by the mean and standard deviation over the images of the final fit.

    Args:
        train: features to fit on.
        val: features that choose the penalty; None uses a random fifth of train.
        test: features to score the probe on.
        device: device of the fits.

    Returns:
        `top1` and `mean_per_class`, accuracies on test; `num_correct` and `num_test`, images of
        test; `num_fitted`, images of the final fit; `penalty`, the chosen lambda, and its score
        `val_top1`; `selected_on`, the images that it was chosen on; `num_configs`, the number of
        penalties; `remarks`, sentences about the fits.

    Raises:
        UserError: there is no test split, or images have several labels.
    """
    if test is None:
        raise UserError(
            "There is no test split to score the probe on.",
            "Add images, or a folder test/ with the classes of train/.",
        )
    if train.labels.ndim > 1:
        raise UserError(
            "Images have several labels; the probe needs one label per image.", "Leave out --probe."
        )
    num_classes = int(max(part.labels.max() for part in (train, val, test) if part is not None)) + 1
    fitted, selecting, selected_on = _split(train, val)
    features, labels = _concatenate([fitted, selecting])
    standardize = logistic_regression.standardization(torch.as_tensor(features, device=device))

    def to_device(part: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
        return standardize(torch.as_tensor(part[0], device=device)), torch.as_tensor(
            part[1], device=device
        )

    chosen = logistic_regression.select_penalty(
        to_device(fitted), to_device(selecting), num_classes, _top1
    )
    seen, truth = to_device((test.features, test.labels))
    predicted = chosen.fit.logits(seen.double()).argmax(dim=1)
    right = (predicted == truth).cpu().numpy()
    per_class = [right[test.labels == label].mean() for label in np.unique(test.labels)]
    remarks = (
        []
        if all(chosen.converged.values())
        else [
            f"{sum(not done for done in chosen.converged.values())} of {len(chosen.converged)} "
            "fits did not converge; their scores "
            "on val are those at the last iteration"
        ]
    )
    if chosen.at_the_edge:
        remarks.append("the penalty chosen is at the edge of the path")
    return {
        "top1": float(right.mean()),
        "mean_per_class": float(np.mean(per_class)),
        "num_correct": int(right.sum()),
        "num_test": len(right),
        "num_fitted": len(labels),
        "penalty": chosen.fit.penalty,
        "num_configs": len(chosen.scores),
        "selected_on": selected_on,
        "val_top1": chosen.scores[chosen.fit.penalty],
        "remarks": remarks,
    }


def _split(
    train: Features, val: Features | None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], str]:
    """Return the images to fit on, the images that select the penalty, and a name of the latter.

    Images are given as features and labels. val selects the penalty even if it lacks some classes.
    """
    if val is not None:
        return (train.features, train.labels), (val.features, val.labels), "val"
    from writers.random_streams import random_bits, uniform

    held_out = uniform(random_bits(0, "probe", train.ids)) < HELD_OUT
    return (
        (train.features[~held_out], train.labels[~held_out]),
        (train.features[held_out], train.labels[held_out]),
        f"{HELD_OUT:.0%} of train",
    )


def _concatenate(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([features for features, _ in parts]), np.concatenate(
        [labels for _, labels in parts]
    )


def _top1(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())
