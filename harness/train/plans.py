"""The two ways in which training code looks at a beton: augmented in random order, and centre-cropped in file order."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.stage import StageContext
from harness.train_settings import TrainSettings
from loaders.plan import LoaderPlan
from writers.draws import draw
from writers.errors import UserError
from writers.store import open_beton


def split_path(context: StageContext, role: str, split: str) -> Path:
    """Where the write stage that fills `role` has put that split's beton."""
    return context.data / context.needs[role].metrics["splits"][split]["path"]


def train_plan(beton: Path, settings: TrainSettings, seed: int, context: StageContext) -> LoaderPlan:
    return LoaderPlan(beton, settings.batch_size, settings.resolution, augment="random_resized_crop",
                      crop_scale=settings.crop_scale, crop_ratio=settings.crop_ratio, horizontal_flip=settings.horizontal_flip,
                      order="random", seed=seed, device=context.device, num_threads=context.num_threads,
                      rank=context.ranks.rank, world_size=context.ranks.world_size)


def eval_plan(beton: Path, batch_size: int, resolution: int, crop: float, context: StageContext) -> LoaderPlan:
    return LoaderPlan(beton, max(batch_size, context.ranks.world_size), resolution, center_fraction=crop, device=context.device,
                      num_threads=context.num_threads, rank=context.ranks.rank, world_size=context.ranks.world_size)


def held_out(plan: LoaderPlan, asked: dict[str, int], *, only: bool) -> LoaderPlan:
    """The plan without the images that are held out, {"per_class", "seed"}; or with those only."""
    few = few_per_class(plan.beton, asked["per_class"], asked["seed"])
    if only:
        return replace(plan, indices=few)
    beton = open_beton(plan.beton)
    rest = np.setdiff1d(np.arange(len(beton.labels)), few)
    if lost := np.setdiff1d(beton.labels, beton.labels[rest]).size:
        raise UserError(f"With {asked['per_class']} images of each class held out, {lost} classes of {plan.beton.parent.name} "
                        "have no image left to train on.", "Lower ranking.per_class.")
    return replace(plan, indices=rest)


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
        raise UserError("per_class: images of this target have many labels, so its classes cannot be cut to size.")
    by_draw = np.argsort(draw(seed, "few", ids), kind="stable")
    by_class = by_draw[np.argsort(labels[by_draw], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)     # of each image in its class
    return np.sort(by_class[place < num_images])
