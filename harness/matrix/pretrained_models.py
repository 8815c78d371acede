"""Expand the stages of a recipe's pretrained models (`models`). Imports no torch.

The stage `adopt` loads a model. Stages `evaluate`, `transfer` and `features` need it; `score` needs
`features`, and `shortlist` needs the scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.config.axes import AxisSelection
from harness.config.data import DataSettings
from harness.config.inputs import (
    PUBLISHED,
    Checkpoint,
    ClassList,
    Contents,
    PublishedWeights,
    inputs_of_model,
)
from harness.config.model import ModelSettings
from harness.config.recipe import FeatureSettings, Recipe, ShortlistSettings
from harness.config.transfer import TransferSettings
from harness.matrix.features_and_scores import Scores
from harness.matrix.stage import Stage
from harness.matrix.transfers import Transfers
from loaders import interpolation

# Type of input -> setting of the `adopt` stage that contains the digest of the input's file.
FILES: dict[type, str] = {
    Checkpoint: "weights_file",
    PublishedWeights: "weights_file",
    ClassList: "class_file",
}


def stages_of_models(
    recipe: Recipe,
    selection: AxisSelection,
    targets: Sequence[tuple[DataSettings, Stage]],
    contents: Contents,
    source: Stage | None = None,
) -> Iterator[Stage]:
    """Expand the selected models of the recipe's `models`.

    Stages that run only for models on the shortlist come last.

    Args:
        recipe: the recipe.
        selection: the combinations of axes (model, target, method, seed) that the recipe selects.
        targets: targets, with the stages that write their data.
        contents: name of an input of the recipe -> digest of its content.
        source: stage that writes the images that models are evaluated on. None means they are
            not evaluated.
    """
    shared = Transfers(recipe, targets), Scores(recipe, targets)
    several_seeds = len(recipe.seeds) > 1
    scored: list[Stage] = []
    gated: list[Stage] = []
    for settings in recipe.models:
        axes = {"model": settings.name}
        if not selection.includes(axes):
            continue
        model = Stage(
            "adopt", adopt_config(recipe, settings, contents), {}, axes, f"adopt/{settings.name}"
        )
        yield model
        if source is not None:
            config = _evaluate_config(recipe.features, settings)
            needs = {"model": model, "data": source}
            yield Stage("evaluate", config, needs, axes, f"evaluate/{settings.name}")
        own = _with_view_of(recipe, settings)
        transfers, scores = (
            shared if own is recipe else (Transfers(own, targets), Scores(own, targets))
        )
        stages = [*scores.stages_for(model, name_suffix=settings.name)]
        for seed in recipe.seeds:  # seed of new heads, and of the order of images
            name_suffix = f"{settings.name}/seed{seed}" if several_seeds else settings.name
            seeded = replace(model, axes={**axes, "seed": seed})
            stages += transfers.stages_for(seeded, seed=seed, name_suffix=name_suffix)
        for stage in (stage for stage in stages if selection.includes(stage.axes)):
            scored += [stage] if stage.kind == "score" else []
            if recipe.shortlist and stage.axes.get("method") in recipe.shortlist.methods:
                gated.append(stage)
            else:
                yield stage
    if recipe.shortlist is not None:
        shortlist = _shortlist(recipe.shortlist, scored)
        yield shortlist
        yield from (stage.gated(shortlist) for stage in gated)


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


def adopt_config(recipe: Recipe, settings: ModelSettings, contents: Contents) -> dict[str, Any]:
    """Config of the stage that loads a model: what determines its weights, not resolution and crop.

    `weights_dir` is None for a model that is packaged with this project.
    """
    packaged = settings.checkpoint is None and "/" not in settings.name
    digests = {
        FILES[type(item)]: digest
        for item in inputs_of_model(settings, recipe.weights_dir)
        if (digest := contents.get(item.name)) not in (None, PUBLISHED)
    }
    return {
        "model": settings.resolved_weights(),
        "weights_dir": None if packaged else recipe.weights_dir,
        **digests,
    }


def _evaluate_config(features: FeatureSettings, model: ModelSettings) -> dict[str, Any]:
    """Config of an evaluate stage of a pretrained model: clean images, resolution and crop.

    A recipe may set resolution and crop of a checkpoint. Otherwise they are None, which means the
    values in the model's metadata. Published weights are measured at the resolution and crop of
    their published accuracy.
    """
    is_checkpoint = model.checkpoint is not None
    return {
        "settings": {"batch_size": features.batch_size},
        "eps": 0.0,
        "resolution": model.resolution if is_checkpoint else None,
        "eval_crop": model.eval_crop if is_checkpoint else None,
        "interpolation": "auto",
        "resize_version": interpolation.RESIZE_VERSION,
        "precision": features.precision,
        "flip_tta": False,
    }


def _with_view_of(recipe: Recipe, settings: ModelSettings) -> Recipe:
    """Return the recipe with the model's own resolution and crop, if it sets them."""
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
