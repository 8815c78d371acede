"""How well a model knows each class of a beton: the ranking that subsets remove the hardest classes by."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.model import Classifier
from harness.train.evaluate import View, evaluate
from harness.train.precision import choose
from loaders import open_loader
from loaders.plan import LoaderPlan
from writers.errors import UserError
from writers.ranking import Ranking, rank


@dataclass(frozen=True)
class ClassScores:
    """By class, in no order of hardness; `ranking` has that."""

    ranking: Ranking
    mean_probability: dict[str, float]      # given to the true class
    num_images: dict[str, int]


def rank_classes(model: Classifier, plan: LoaderPlan, classes: Sequence[str], *, source: str) -> ClassScores:
    """Rank `classes` (label k is `classes[k]`) by the model's accuracy on the plan's images, ties by mean probability.

    `source` says in words whose accuracies these are. Raises UserError for a class without images.
    """
    with open_loader(plan) as loader:
        counts = evaluate(model.to(plan.device), loader, device=plan.device, precision=choose("auto", plan.device),
                          num_classes=len(classes), views={"all": View()})["all"]
    correct, total = (column.tolist() for column in counts.per_class())
    if unseen := [name for name, number in zip(classes, total, strict=True) if number == 0]:
        raise UserError(f"{len(unseen)} classes have no image in {plan.beton.name} to rank them by, such as {unseen[0]}.",
                        "Give val a larger share, or rank on the train split.")
    accuracy = {name: right / number for name, right, number in zip(classes, correct, total, strict=True)}
    probability = dict(zip(classes, counts.mean_probability().tolist(), strict=True))
    ranking = rank(accuracy, [probability], source=source, tie_break="mean probability given to the true class")
    return ClassScores(ranking, probability, dict(zip(classes, total, strict=True)))
