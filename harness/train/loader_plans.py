"""Loader plans for training (augmented, random order) and evaluation (center crop, file order)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import loaders.backends.ffcv  # noqa: F401 (takes 0.5 s, so load it before forking)
from harness.config.train import TrainSettings
from harness.runner.context import StageContext
from harness.system.array_files import Form, read_arrays
from loaders.interpolation import Interpolation
from loaders.plan import LoaderPlan
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.random_streams import random_bits
from writers.text_names import counted

FORMS = {"positions": Form("i", has_rows=False), "labels": Form("i", has_rows=False)}


def split_path(context: StageContext, role: str, split: str) -> Path:
    """Return the path of a split's `.beton` file that the result `context.needs[role]` names."""
    path: str = context.needs[role].metrics["splits"][split]["path"]
    return context.data / path


def in_view(plan: LoaderPlan, context: StageContext, role: str, split: str) -> LoaderPlan:
    """Restrict a plan of a split to the images that a view stage selected.

    A view stage selects the images of a subset in the `.beton` files of all source images, without
    writing them again.

    Args:
        plan: plan of the whole split.
        context: context of the stage.
        role: key of `context.needs`. If that stage is not a view stage, the plan is unchanged.
        split: name of the split.

    Raises:
        UserError: the file with the positions of the images is missing or damaged.
    """
    file = context.needs[role].metrics.get("view", {}).get(split)
    if file is None:
        return plan
    arrays = read_arrays(context.need_folders[role] / file, "positions", FORMS)
    return replace(plan, indices=arrays["positions"], labels=tuple(arrays["labels"].tolist()))


def choose_interpolation(
    setting: Interpolation | Literal["auto"], about: Mapping[str, Any]
) -> Interpolation:
    """Return the interpolation of a model's input.

    Args:
        setting: `interpolation` in a recipe.
        about: metadata that is saved with the model. "auto" uses its interpolation, or area if it
            names none.
    """
    chosen: Interpolation = about.get("interpolation") or "area" if setting == "auto" else setting
    return chosen


def train_plan(
    beton: Path,
    settings: TrainSettings,
    seed: int,
    context: StageContext,
    interpolation: Interpolation = "area",
) -> LoaderPlan:
    """Plan random augmented crops of a beton in random order.

    Args:
        beton: Path of the beton.
        settings: Batch size, resolution and augmentation.
        seed: Seed of order and augmentation.
        context: Device, threads and ranks of the stage.
        interpolation: Filter of the resize.
    """
    return LoaderPlan(
        beton,
        settings.batch_size,
        settings.resolution,
        augment="random_resized_crop",
        crop_scale=settings.crop_scale,
        crop_ratio=settings.crop_ratio,
        horizontal_flip=settings.horizontal_flip,
        augmentations=settings.augment,
        interpolation=interpolation,
        order="random",
        seed=seed,
        device=context.device,
        num_threads=context.num_threads,
        rank=context.group.rank,
        world_size=context.group.world_size,
    )


def eval_plan(
    beton: Path,
    batch_size: int,
    resolution: int,
    crop: float,
    context: StageContext,
    interpolation: Interpolation = "area",
) -> LoaderPlan:
    """Plan center crops of a beton in file order.

    Args:
        beton: Path of the beton.
        batch_size: Images per batch over all ranks.
        resolution: Side of the crops in pixels.
        crop: Side of the crop as a fraction of the image's shorter side.
        context: Device, threads and ranks of the stage.
        interpolation: Filter of the resize.
    """
    return LoaderPlan(
        beton,
        max(batch_size, context.group.world_size),
        resolution,
        center_fraction=crop,
        interpolation=interpolation,
        device=context.device,
        num_threads=context.num_threads,
        rank=context.group.rank,
        world_size=context.group.world_size,
    )


def held_out_part(plan: LoaderPlan, spec: Mapping[str, int]) -> LoaderPlan:
    """Return the plan with only the held-out images.

    Args:
        plan: Plan of a whole split.
        spec: {"per_class", "seed"} holds out `per_class` images of each class. {"fold", "folds",
            "seed"} divides each class into `folds` parts and holds out the part `fold`, from 0.
            The draw depends only on the seed and the images' ids.
    """
    beton = open_beton(plan.beton)
    place, _ = _place_in_class(beton.labels, beton.ids, spec["seed"])
    return replace(plan, indices=np.flatnonzero(_is_held_out(place, spec)))


def without_held_out(plan: LoaderPlan, spec: Mapping[str, int]) -> LoaderPlan:
    """Return the plan without the held-out images. Arguments as in `held_out_part`.

    Raises:
        UserError: a class has no image left.
    """
    beton = open_beton(plan.beton)
    place, counts = _place_in_class(beton.labels, beton.ids, spec["seed"])
    kept = ~_is_held_out(place, spec)
    if num_lost := int((counts > 0).sum()) - len(np.unique(beton.labels[kept])):
        held_out = (
            f"one of {spec['folds']} folds"
            if "folds" in spec
            else f"{spec['per_class']} images per class"
        )
        raise UserError(
            f"Without {held_out}, {counted(num_lost, 'class', ('has', 'have'))} no image "
            f"of {plan.beton.parent.name} left to train on.",
            "Lower ranking.per_class." if "per_class" in spec else "Rank on val.",
        )
    return replace(plan, indices=np.flatnonzero(kept))


def _is_held_out(place: np.ndarray, spec: Mapping[str, int]) -> np.ndarray:
    """Return True for held-out images, bool [N]. place: int64 [N], see `_place_in_class`."""
    mask: np.ndarray = (
        place % spec["folds"] == spec["fold"] if "folds" in spec else place < spec["per_class"]
    )
    return mask


def sample_per_class_of_beton(beton: Path, num_images: int, seed: int) -> np.ndarray:
    """Call `sample_per_class` for the images of a beton; return their positions, int64 [M]."""
    opened = open_beton(beton)
    return sample_per_class(opened.labels, opened.ids, num_images, seed)


def sample_per_class(labels: np.ndarray, ids: np.ndarray, num_images: int, seed: int) -> np.ndarray:
    """Draw a class-balanced subsample.

    The draw depends only on the seed and the images' ids, so all betons of the same images give the
    same sample. A smaller sample is a subset of a larger one.

    Args:
        labels: int64 [N].
        ids: uint64 [N].
        num_images: Images per class. Of a smaller class, all images are taken.
        seed: Seed of the draw.

    Returns:
        Positions of the M sampled images, in rising order, int64 [M].

    Raises:
        UserError: images have several labels.
    """
    if labels.ndim != 1:
        raise UserError(
            "per_class: images of this target have several labels, so no number per class can be "
            "sampled.",
            "Remove per_class from this target (per_target), or leave the target out.",
        )
    return np.flatnonzero(_place_in_class(labels, ids, seed)[0] < num_images)


def _place_in_class(
    labels: np.ndarray, ids: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle the images of each class by a hash of the seed and their ids.

    Returns:
        Position of each image in its shuffled class, int64 [N]; number of images per class,
        int64 [K].
    """
    by_draw = np.argsort(random_bits(seed, "few", ids), kind="stable")
    by_class = by_draw[np.argsort(labels[by_draw], kind="stable")]
    counts = np.bincount(labels)
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, counts


def check_val_is_not_test(context: StageContext) -> None:
    """Check that val and test are different images, so that nothing is chosen on test images.

    Compares digests of the images' bytes, because each split numbers its images independently. Some
    datasets contain a few images twice, so up to half of val may also be in test.

    Raises:
        UserError: more than half of the images of val are also in test.
    """
    val, test = (
        {digest.tobytes() for digest in open_beton(split_path(context, "data", split)).digests}
        for split in ("val", "test")
    )
    if 2 * len(val & test) > len(val):
        raise UserError(
            f"{len(val & test)} of the {counted(len(val), 'image')} of val are images of test, "
            "too: choosing on val would be choosing on test.",
            "Split val off train: write the target with `val:` above 0.",
        )
