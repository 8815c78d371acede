"""The stages of models that exist already: adopt -> transfer, features -> score -> shortlist. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.config.axes import AxisSelection
from harness.config.model import ModelSettings
from harness.config.recipe import DataSettings, Recipe, ShortlistSettings
from harness.config.transfer import TransferSettings
from harness.matrix.features_and_scores import Scores
from harness.matrix.stage import Stage
from harness.matrix.transfers import Transfers


def adopted(
    recipe: Recipe, selection: AxisSelection, targets: Sequence[tuple[DataSettings, Stage]]
) -> Iterator[Stage]:
    """Every model of `models:` with all that hangs on it, and last what hangs on their shortlist. targets: each with the stage
    that writes its data."""
    shared = Transfers(recipe, targets), Scores(recipe, targets)
    several_seeds = len(recipe.seeds) > 1
    scored: list[Stage] = []
    of_the_best: list[Stage] = []
    for settings in recipe.models:
        axes = {"model": settings.name}
        if not selection.includes(axes):
            continue
        model = Stage("adopt", _config(recipe, settings), {}, axes, f"adopt/{settings.name}")
        yield model
        own = _as_the_model_wants(recipe, settings)
        transfers, scores = (
            shared if own is recipe else (Transfers(own, targets), Scores(own, targets))
        )
        stages = [*scores.of(model, short=settings.name)]
        for seed in recipe.seeds:  # of new heads, and of the order of images
            short = f"{settings.name}/seed{seed}" if several_seeds else settings.name
            stages += transfers.of(
                replace(model, axes={**axes, "seed": seed}), seed=seed, short=short
            )
        for stage in (stage for stage in stages if selection.includes(stage.axes)):
            scored += [stage] if stage.kind == "score" else []
            if recipe.shortlist and stage.axes.get("method") in recipe.shortlist.methods:
                of_the_best.append(stage)
            else:
                yield stage
    if recipe.shortlist is not None:
        shortlist = _shortlist(recipe.shortlist, scored)
        yield shortlist
        yield from (replace(stage, gated_by=shortlist) for stage in of_the_best)


def _shortlist(settings: ShortlistSettings, scored: Sequence[Stage]) -> Stage:
    roles = {f"{stage.axes['model']} on {stage.axes['target']}": stage for stage in scored}
    config = {
        "by": settings.by,
        "best": settings.best,
        "scores": {
            role: [stage.axes["model"], stage.axes["target"]] for role, stage in roles.items()
        },
    }
    return Stage("shortlist", config, roles, {}, f"shortlist/{settings.by}")


def _config(recipe: Recipe, settings: ModelSettings) -> dict[str, Any]:
    """What decides the weights: not how images are shown to them. Packaged weights lie in no folder."""
    packaged = settings.checkpoint is None and "/" not in settings.name
    return {
        "model": settings.resolved_weights(),
        "weights_dir": None if packaged else recipe.weights_dir,
    }


def _as_the_model_wants(recipe: Recipe, settings: ModelSettings) -> Recipe:
    """The recipe, with this model's own resolution and crop where it has some."""
    resolution = {"resolution": settings.resolution} if settings.resolution else {}
    view = resolution | ({"eval_crop": settings.eval_crop} if settings.eval_crop else {})
    if not view:
        return recipe
    methods = {
        label: method.model_copy(update=resolution)
        if isinstance(method, TransferSettings)
        else method
        for label, method in recipe.methods.items()
    }
    return recipe.model_copy(
        update={"methods": methods, "features": recipe.features.model_copy(update=view)}
    )
