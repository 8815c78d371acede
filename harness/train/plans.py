"""The two ways in which training code looks at a beton: augmented in random order, and centre-cropped in file order."""

from pathlib import Path

from harness.stage import StageContext
from harness.train_settings import TrainSettings
from loaders.plan import LoaderPlan


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
