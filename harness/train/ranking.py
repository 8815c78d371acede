"""Rank a dataset's classes by the accuracy of models, so that subsets can omit hard classes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.modeling.classifier import Classifier
from harness.modeling.precision import Precision
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.loader_plans import held_out_part
from loaders import open_loader
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.errors import UserError
from writers.subset.ranking import Ranking, rank
from writers.text_names import counted


@dataclass(frozen=True)
class ClassScores:
    """Ranking of the classes, and the scores that it is based on.

    Attributes:
        ranking: Classes, hardest first, and their accuracies.
        mean_probability: Class -> mean probability that its images get for their true class.
        num_images: Class -> number of its images that were predicted.
    """

    ranking: Ranking
    mean_probability: dict[str, float]
    num_images: dict[str, int]


def rank_classes(
    models: Iterable[tuple[Classifier, LoaderPlan]],
    classes: Sequence[str],
    *,
    source: str,
    precision: Precision,
    begin_pass: Callable[[Loader], Callable[[int], None]] = lambda loader: lambda num_images: None,
) -> ClassScores:
    """Rank classes by accuracy over the images of all plans.

    Each model predicts the images of the plan that it is paired with. Ties are broken by the mean
    probability of the true class.

    Args:
        models: Each model with the plan of the images that it predicts.
        classes: Names of the classes; label k is `classes[k]`.
        source: Description of the models, stored in the ranking.
        precision: Number format of the passes.
        begin_pass: Called with each loader. The function that it returns is called after each
            batch with the number of finished images.

    Raises:
        UserError: a class has no image.
    """
    correct, total = (torch.zeros(len(classes), dtype=torch.int64) for _ in range(2))
    probability = torch.zeros(len(classes), dtype=torch.float64)
    for model, plan in models:
        with open_loader(plan) as loader:
            counts = evaluate(
                model.to(plan.device),
                loader,
                EvaluationPlan(
                    device=plan.device,
                    precision=precision,
                    num_classes=len(classes),
                    views={"all": View()},
                ),
                after_batch=begin_pass(loader),
            )["all"]
        correct_in_pass, total_in_pass = counts.per_class()
        correct, total, probability = (
            correct + correct_in_pass,
            total + total_in_pass,
            probability + counts.mean_probability() * total_in_pass,
        )
    if unseen := [
        name for name, number in zip(classes, total.tolist(), strict=True) if number == 0
    ]:
        raise UserError(
            f"{counted(len(unseen), 'class', ('has', 'have'))} no image in {plan.beton.name} to "
            f"rank them by, such as {unseen[0]}.",
            "Enlarge val, or rank on a part of train: ranking: {split: held_out} in a recipe.",
        )
    accuracy = dict(zip(classes, (correct.double() / total).tolist(), strict=True))
    mean_probability = dict(zip(classes, (probability / total).tolist(), strict=True))
    ranking = rank(
        accuracy,
        [mean_probability],
        source=source,
        tie_break="mean probability given to the true class",
    )
    return ClassScores(ranking, mean_probability, dict(zip(classes, total.tolist(), strict=True)))


def unseen_part(
    plan: LoaderPlan, about: Mapping[str, Any], *, split: str, source: str
) -> LoaderPlan:
    """Restrict a plan of a whole split to images that the model was not trained on.

    Args:
        plan: Plan of the split.
        about: Metadata of the model's weights.
        split: Name of the split.
        source: Name of the model, for messages.

    Raises:
        UserError: the split is train, and the metadata names no images that were held out of it.
    """
    if split != "train":
        return plan
    if not about.get("held_out"):
        raise UserError(
            f"{source} may have been trained on all of {plan.beton.name}, so its accuracies on "
            "these images are not meaningful.",
            "Rank on val, or with models that hold out a part of train: ranking: {split: held_out} "
            "in a recipe.",
        )
    return held_out_part(plan, about["held_out"])
