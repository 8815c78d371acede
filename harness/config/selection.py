"""Settings of models that score classes and images for subsets with `by: reference`."""

from typing import Annotated

from pydantic import Field

from harness.config.base import Count, OneLine, Seed, Settings
from harness.config.model import ModelSettings
from harness.config.train import PretrainSettings


class SurrogateSettings(Settings):
    """Model that label and feature mapping, and prototypes, show images to.

    Attributes:
        model: a pretrained model with the source's classes. None means that the recipe trains one,
            clean, on all classes.
        seed: seed of the trained model. It is none of `seeds`, so that it differs from the models
            of the results.
        epochs: of the trained model. None means those of `pretrain`.
    """

    model: ModelSettings | None = None
    seed: Seed = 1000
    epochs: Count | None = None

    def without_effect(self) -> dict[str, str]:
        """Settings of training, if the model is pretrained."""
        if self.model is None:
            return {}
        return dict.fromkeys(("seed", "epochs"), "has no effect on a pretrained model")


class EarlySettings(Settings):
    """Trainings whose first epochs score images: EL2N after the last of them, forgetting in all.

    Attributes:
        epochs: epochs of the schedule of `pretrain` that are trained.
        seeds: scores are averaged over the trainings with these seeds.
    """

    epochs: Annotated[int, Field(ge=2)] = 4
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001, 1002)


class InfluenceSettings(Settings):
    """Models on random halves of the classes, whose accuracies give influences.

    Attributes:
        num_models: number of models; model k has the half that is drawn with seed + k.
        seed: seed of the first half, and of its model.
        arch: None means the first of `archs`.
        pretrain: training of these models. None means `pretrain` of the recipe.
        method: a method of the recipe by its label, or any method, with its default settings. Its
            accuracy on val counts.
    """

    num_models: Annotated[int, Field(ge=4)] = 200
    seed: Seed = 2000
    arch: OneLine | None = None
    pretrain: PretrainSettings | None = None
    method: OneLine = "logreg"


class SelectionSettings(Settings):
    """Models that the recipe trains or loads to score classes and images.

    Attributes:
        surrogate: for label_mapping, feature_mapping and prototypes.
        early: for el2n and forgetting.
        influence: for influence.
        batch_size: images per batch of passes over the source.
    """

    surrogate: SurrogateSettings = SurrogateSettings()
    early: EarlySettings = EarlySettings()
    influence: InfluenceSettings = InfluenceSettings()
    batch_size: Count = 256

    def check_used(self, methods: set[str]) -> None:
        """Raise ValueError for a part that is set and that none of the methods of scoring uses."""
        users = {
            "surrogate": {"label_mapping", "feature_mapping", "prototypes"},
            "early": {"el2n", "forgetting"},
            "influence": {"influence"},
        }
        for part, of_methods in users.items():
            if part in self.model_fields_set and not of_methods & methods:
                raise ValueError(f"selection.{part} has no effect: no subset uses its scores")
