"""The two ways in which training code looks at a beton: augmented in random order, and centre-cropped in file order."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import loaders.backends.ffcv  # noqa: F401 (half a second, before workers are forked)
from harness.config.train import TrainSettings
from harness.runner.context import StageContext
from loaders.plan import LoaderPlan
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.random_streams import random_bits


def split_path(context: StageContext, role: str, split: str) -> Path:
    """Where the write stage that fills `role` has put that split's beton."""
    path: str = context.needs[role].metrics["splits"][split]["path"]
    return context.data / path


def train_plan(
    beton: Path, settings: TrainSettings, seed: int, context: StageContext
) -> LoaderPlan:
    return LoaderPlan(
        beton,
        settings.batch_size,
        settings.resolution,
        augment="random_resized_crop",
        crop_scale=settings.crop_scale,
        crop_ratio=settings.crop_ratio,
        horizontal_flip=settings.horizontal_flip,
        order="random",
        seed=seed,
        device=context.device,
        num_threads=context.num_threads,
        rank=context.group.rank,
        world_size=context.group.world_size,
    )


def eval_plan(
    beton: Path, batch_size: int, resolution: int, crop: float, context: StageContext
) -> LoaderPlan:
    return LoaderPlan(
        beton,
        max(batch_size, context.group.world_size),
        resolution,
        center_fraction=crop,
        device=context.device,
        num_threads=context.num_threads,
        rank=context.group.rank,
        world_size=context.group.world_size,
    )


def held_out(plan: LoaderPlan, asked: dict[str, int], *, only: bool) -> LoaderPlan:
    """The plan without the images that are held out, or with those only.

    {"per_class", "seed"}: so many images of each class. {"fold", "folds", "seed"}: one of so many parts of equal size, class by
    class. Drawn by the images' ids. Raises UserError for a class that has no image left.
    """
    beton = open_beton(plan.beton)
    place, counts = _place_in_class(beton.labels, beton.ids, asked["seed"])
    if "folds" in asked:
        out, parts = (
            place % asked["folds"] == asked["fold"],
            f"One of {asked['folds']} folds held out",
        )
    else:
        out, parts = (
            place < asked["per_class"],
            f"With {asked['per_class']} images of each class held out",
        )
    if only:
        return replace(plan, indices=np.flatnonzero(out))
    if lost := int((counts > 0).sum()) - len(np.unique(beton.labels[~out])):
        raise UserError(
            f"{parts}, {lost} classes of {plan.beton.parent.name} have no image left to train on.",
            "Lower ranking.per_class." if "per_class" in asked else "Rank on val.",
        )
    return replace(plan, indices=np.flatnonzero(~out))


def few_per_class(beton: Path, num_images: int, seed: int) -> np.ndarray:
    """`few_of_each` for the images of a file."""
    opened = open_beton(beton)
    return few_of_each(opened.labels, opened.ids, num_images, seed)


def few_of_each(labels: np.ndarray, ids: np.ndarray, num_images: int, seed: int) -> np.ndarray:
    """Positions of that many images of each class, int64 [M], rising; all of a class that has fewer. labels, ids: [N].

    Drawn by the images' ids: the same in every file that holds them, and fewer of a class are part of more.
    Raises UserError where images have many labels.
    """
    if labels.ndim != 1:
        raise UserError(
            "per_class: images of this target have many labels, so its classes cannot be cut to size."
        )
    return np.flatnonzero(_place_in_class(labels, ids, seed)[0] < num_images)


def _place_in_class(
    labels: np.ndarray, ids: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each image among those of its class, in the order of a draw: int64 [N]; and images of each class: int64 [K]."""
    by_draw = np.argsort(random_bits(seed, "few", ids), kind="stable")
    by_class = by_draw[np.argsort(labels[by_draw], kind="stable")]
    counts = np.bincount(labels)
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, counts
