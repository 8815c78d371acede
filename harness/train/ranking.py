"""How well models know each class of a beton: the ranking that subsets remove the hardest classes by."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.modeling.classifier import Classifier
from harness.modeling.precision import Precision
from harness.train.evaluate import View, evaluate
from harness.train.loader_plans import held_out
from loaders import open_loader
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.errors import UserError
from writers.subset.ranking import Ranking, rank


@dataclass(frozen=True)
class ClassScores:
    """By class, in no order of hardness; `ranking` has that."""

    ranking: Ranking
    mean_probability: dict[str, float]  # given to the true class
    num_images: dict[str, int]


def rank_classes(
    models: Iterable[tuple[Classifier, LoaderPlan]],
    classes: Sequence[str],
    *,
    source: str,
    precision: Precision,
    begin_pass: Callable[[Loader], Callable[[int], None]] = lambda loader: lambda num_images: None,
) -> ClassScores:
    """Rank `classes` (label k is `classes[k]`) by accuracy on the images of all plans, each judged by its own model.

    Ties go by the mean probability given to the true class. `source` says in words whose accuracies these are. begin_pass: what
    it gives is told, behind each batch of a plan's images, how many are done. Raises UserError for a class without images.
    """
    correct, total = (torch.zeros(len(classes), dtype=torch.int64) for _ in range(2))
    probability = torch.zeros(len(classes), dtype=torch.float64)
    for model, plan in models:
        with open_loader(plan) as loader:
            counts = evaluate(
                model.to(plan.device),
                loader,
                device=plan.device,
                precision=precision,
                num_classes=len(classes),
                views={"all": View()},
                after_batch=begin_pass(loader),
            )["all"]
        right, number = counts.per_class()
        correct, total, probability = (
            correct + right,
            total + number,
            probability + counts.mean_probability() * number,
        )
    if unseen := [
        name for name, number in zip(classes, total.tolist(), strict=True) if number == 0
    ]:
        raise UserError(
            f"{len(unseen)} classes have no image in {plan.beton.name} to rank them by, such as {unseen[0]}.",
            "Give val a larger share, or rank on a part of train: ranking: {split: held_out} in a recipe.",
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
    """Of a plan of a whole split, what the model was not trained on. `about`: what stands beside its weights.

    Raises UserError for a model that has seen all of train.
    """
    if split != "train":
        return plan
    if not about.get("held_out"):
        raise UserError(
            f"{source} may have been trained on all of {plan.beton.name}: its accuracies there say little.",
            "Rank on val, or by models that leave out a part of train: ranking: {split: held_out} in a recipe.",
        )
    return held_out(plan, about["held_out"], only=True)
