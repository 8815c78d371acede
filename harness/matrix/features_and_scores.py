"""The part of the matrix that looks at frozen models: features of a target's images, and the scores that are made of them.

Imports no torch.
"""

from collections.abc import Iterator, Sequence

from harness.config.methods import any_needs_features
from harness.config.recipe import DataSettings, Recipe
from harness.matrix.stage import Stage
from writers import names

ALL_SPLITS = ("train", "val", "test")


class Scores:
    """What a recipe scores of each model; nothing where it has no `scores`."""

    def __init__(self, recipe: Recipe, targets: Sequence[tuple[DataSettings, Stage]]) -> None:
        """targets: each with the stage that writes its data."""
        self._features, self._targets = Features(recipe), targets if recipe.scores else ()
        self._asked = (
            names.names("harness.transfer.scores")
            if recipe.scores == "all"
            else list(recipe.scores)
        )

    def of(self, model: Stage, *, short: str) -> Iterator[Stage]:
        """The scores of one model for each target, and the features they need. short: what names of its stages end in."""
        for target, data in self._targets:
            seen = self._features.of(model, target, data, short=short)
            yield seen
            yield Stage(
                "score",
                {"scores": self._asked},
                {"features": seen},
                seen.axes,
                f"score/{target.label}/{short}",
            )


class Features:
    """The stages that look at targets with a recipe's models."""

    def __init__(self, recipe: Recipe) -> None:
        """All splits where a method works on features; for scores alone, train."""
        self._settings, self._trained = recipe.features, recipe.pretrain
        self._splits = ALL_SPLITS if any_needs_features(recipe.methods.values()) else ("train",)

    def of(
        self,
        model: Stage,
        target: DataSettings,
        data: Stage,
        *,
        short: str,
        eval_crop: float | None = None,
    ) -> Stage:
        """What `model` sees in the images of `target` (data: its write stage); one stage for all that look in the same way.

        eval_crop: in place of the recipe's. short: what the stage's name ends in.
        """
        settings, trained = self._settings, self._trained
        view = {
            "resolution": settings.resolution,
            "eval_crop": eval_crop or settings.eval_crop,
        }  # None means the model's own
        if model.kind == "pretrain":
            view = {
                "resolution": view["resolution"] or trained.eval_resolution or trained.resolution,
                "eval_crop": view["eval_crop"] or trained.eval_crop,
            }
        config = {
            **view,
            "batch_size": settings.batch_size,
            "precision": settings.precision,
            "splits": list(self._splits),
        }
        return Stage(
            "features",
            config,
            {"model": model, "data": data},
            {**model.axes, "target": target.label},
            f"features/{target.label}/{short}",
        )
