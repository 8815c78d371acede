"""Stages that write data, train models, and rank classes by reference models. Imports no torch."""

from typing import Any

from harness.config.data import DataSettings
from harness.config.inputs import Contents, Images
from harness.config.recipe import RankingSettings, Recipe
from harness.config.train import PretrainSettings
from harness.matrix.stage import SharedConfig, Stage
from loaders import interpolation
from writers.beton.encoding import Encoding
from writers.dataset import spec_of
from writers.subset.spec import SubsetSpec

JSON = dict[str, Any]


def encoding_of(data: DataSettings, recipe: Recipe) -> Encoding:
    """Encoding of a dataset: the dataset's own settings override the recipe's."""
    return data.encoding.over(recipe.encoding) if data.encoding else recipe.encoding


def write(
    data: DataSettings,
    encoding: Encoding,
    subset: SubsetSpec | None,
    needs: dict[str, Stage],
    splits: tuple[str, ...],
    subset_name: str,
    contents: Contents,
) -> Stage:
    """Make the stage that writes splits of a dataset, with all of its classes or a subset.

    Args:
        data: the dataset.
        encoding: how images are stored.
        subset: None means all classes and images.
        needs: stages with a ranking or scores that the subset needs.
        splits: splits to write.
        subset_name: name of the subset in reports.
        contents: contents of the recipe's inputs.
    """
    raw_files, version = contents.get(Images(data).name), spec_of(data.dataset).version
    config = {
        "data": data.resolved_for(splits),
        **({"raw_files": raw_files} if raw_files is not None else {}),
        **({"generated_version": version} if version is not None else {}),
        "encoding": encoding.model_dump(mode="json"),
        "subset": subset.model_dump(mode="json") if subset else None,
        "splits": list(splits),
    }
    axes = {"dataset": data.label, "subset": subset_name}
    return Stage("write", config, needs, axes, f"write/{data.label}/{subset_name}")


def references(recipe: Recipe, all_data: Stage) -> dict[str, Stage]:
    """Return role -> stage of a reference model, which trains clean on all classes to rank them.

    No model ranks images that it was trained on. `all_data` is the stage that writes all classes.
    """
    assert recipe.ranking is not None
    arch, seed = recipe.archs[0], recipe.ranking.seed
    config = PretrainConfigs(recipe, recipe.ranking.epochs).config(arch, 0.0, seed, all_images=True)
    axes = {"role": "reference", "subset": "all", "arch": arch, "eps": 0.0, "seed": seed}
    name = f"pretrain/reference/seed{seed}"
    if recipe.ranking.split != "train":
        return {
            "model": Stage(
                "pretrain", config | _held_out(recipe.ranking), {"data": all_data}, axes, name
            )
        }
    return {
        f"model_{part['fold']}": Stage(
            "pretrain",
            config | {"held_out": part},
            {"data": all_data},
            axes | {"fold": part["fold"]},
            f"{name}/fold{part['fold']}",
        )
        for part in recipe.ranking.held_out
    }


def rank(recipe: Recipe, models: dict[str, Stage], all_data: Stage) -> Stage:
    """Make the stage that ranks the classes by the reference models."""
    assert recipe.ranking is not None
    split = "val" if recipe.ranking.split == "val" else "train"
    config = {
        "split": split,
        **_held_out(recipe.ranking),
        "batch_size": recipe.evaluate.batch_size,
        **view_settings(recipe.pretrain),
    }
    axes = {
        axis: value for axis, value in next(iter(models.values())).axes.items() if axis != "fold"
    }
    return Stage("rank", config, {**models, "data": all_data}, axes, "rank/reference")


def _held_out(ranking: RankingSettings) -> JSON:
    """Setting for the part that the reference model does not train on, if there is one model."""
    return {"held_out": ranking.held_out[0]} if ranking.split == "held_out" else {}


class PretrainConfigs:
    """Make configs of pretrain stages; equal settings are serialized once for all stages."""

    def __init__(self, recipe: Recipe, epochs: int | None = None) -> None:
        self._pretrain = recipe.pretrain.model_copy(update={"epochs": epochs} if epochs else {})
        self._settings: dict[tuple[bool, bool], SharedConfig] = {}

    def config(self, arch: str, eps: float, seed: int, *, all_images: bool) -> JSON:
        """Config of the stage at one point of the axes.

        all_images: the data has all images of the source; `length` then has no effect.
        """
        combination = eps > 0, all_images
        if combination not in self._settings:
            self._settings[combination] = SharedConfig(
                self._pretrain.resolved_for(attacked=eps > 0, all_images=all_images)
            )
        return {
            "arch": arch,
            "eps": eps,
            "seed": seed,
            "settings": self._settings[combination],
            "resize_version": interpolation.RESIZE_VERSION,
        }


def view_settings(settings: PretrainSettings) -> JSON:
    """Resolution, crop, resize and precision in which a trained model is evaluated.

    The precision is the same as in training, and may still be "auto".
    """
    return {
        "resolution": settings.eval_resolution or settings.resolution,
        "eval_crop": settings.eval_crop,
        "interpolation": settings.interpolation,
        "resize_version": interpolation.RESIZE_VERSION,
        "precision": settings.precision,
    }
