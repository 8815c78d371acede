"""Settings of models that score classes and images for subsets with `by: reference`."""

from typing import Annotated

from pydantic import Field

from harness.config.base import Count, OneLine, Seed, Settings
from harness.config.model import ModelSettings
from harness.config.train import PretrainSettings


class SurrogateSettings(Settings):
    """Model that computes the scores label_mapping, feature_mapping and prototypes.

    Attributes:
        model: a pretrained model with the source's classes. None means that the recipe trains one,
            clean, on all classes.
        seed: seed of the trained model. It must not be in `seeds`, so that this model is none of
            the models that are compared.
        epochs: epochs of the trained model. None means `epochs` of `pretrain`.
    """

    model: ModelSettings | None = None
    seed: Seed = 1000
    epochs: Count | None = None

    def without_effect(self) -> dict[str, str]:
        """Settings of training have no effect if the model is pretrained."""
        if self.model is None:
            return {}
        return dict.fromkeys(("seed", "epochs"), "has no effect on a pretrained model")


class EarlySettings(Settings):
    """Short trainings that score images: EL2N after the last epoch, forgetting over all epochs.

    Attributes:
        epochs: number of epochs after which training ends; the schedule is that of `pretrain`.
        seeds: one training per seed; scores are averaged over them.
    """

    epochs: Annotated[int, Field(ge=2)] = 4
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001, 1002)


class InfluenceSettings(Settings):
    """Models trained on random halves of the classes; their accuracies give each class's influence.

    Attributes:
        num_models: number of models; model k trains on the half that is drawn with seed + k.
        seed: seed of the first half, and of the model on it.
        arch: architecture of these models. None means the first of `archs`.
        pretrain: training of these models. None means `pretrain` of the recipe.
        method: method that transfers these models: the label of a method of the recipe, or the name
            of any other method, with its default settings. Influences use its accuracy on val.
    """

    num_models: Annotated[int, Field(ge=4)] = 200
    seed: Seed = 2000
    arch: OneLine | None = None
    pretrain: PretrainSettings | None = None
    method: OneLine = "logreg"


class SelectionSettings(Settings):
    """Models that the recipe trains or loads to score classes and images.

    Attributes:
        surrogate: model for the scores label_mapping, feature_mapping and prototypes.
        early: trainings for the scores el2n (Paul et al. 2021) and forgetting (Toneva et al. 2019).
        influence: trainings for the score influence.
        batch_size: images per batch when the source's images are scored.
    """

    surrogate: SurrogateSettings = SurrogateSettings()
    early: EarlySettings = EarlySettings()
    influence: InfluenceSettings = InfluenceSettings()
    batch_size: Count = 256

    def check_used(self, methods: set[str]) -> None:
        """Raise ValueError if a field is set that none of the scoring methods `methods` uses."""
        users = {
            "surrogate": {"label_mapping", "feature_mapping", "prototypes"},
            "early": {"el2n", "forgetting"},
            "influence": {"influence"},
        }
        for part, of_methods in users.items():
            if part in self.model_fields_set and not of_methods & methods:
                raise ValueError(f"selection.{part} has no effect: no subset uses its scores")
