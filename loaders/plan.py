"""Everything a loader needs, frozen: the whole of what decides which pixels come in which order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from writers.errors import UserError


@dataclass(frozen=True)
class LoaderPlan:
    """Same plan, same epoch: same batches, whatever the number of threads or the backend.

    Raises UserError for a value that cannot be meant.
    """

    beton: Path
    batch_size: int
    resolution: int                                     # R: batches are uint8 [B, 3, R, R], channels_last
    augment: Literal["random_resized_crop", "center_crop"] = "center_crop"
    crop_scale: tuple[float, float] = (0.08, 1.0)       # random_resized_crop: share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)    # random_resized_crop: width / height
    horizontal_flip: bool = False                       # each image with probability 1/2
    center_fraction: float = 224 / 256                  # center_crop: share of the shorter side
    order: Literal["sequential", "random"] = "sequential"
    drop_last: bool = False
    seed: int = 0
    indices: tuple[int, ...] | None = None              # a view: these samples of the beton, in this order; None: all
    labels: tuple[int, ...] | None = None               # relabelling: new label of each label in the file; -1: not used
    device: str = "cpu"
    num_threads: int = 1
    batches_ahead: int = 2
    backend: str = "ffcv"                               # a name in loaders/backends

    def __post_init__(self) -> None:
        object.__setattr__(self, "beton", Path(self.beton))
        for name in ("batch_size", "resolution", "num_threads", "batches_ahead"):
            if getattr(self, name) < 1:
                raise UserError(f"LoaderPlan.{name} is {getattr(self, name)}; it must be at least 1.")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"LoaderPlan.crop_scale is {self.crop_scale}; "
                            "it must be (low, high) with 0 < low <= high <= 1.")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise UserError(f"LoaderPlan.crop_ratio is {self.crop_ratio}; it must be (low, high) with 0 < low <= high.")
        if not 0 < self.center_fraction <= 1:
            raise UserError(f"LoaderPlan.center_fraction is {self.center_fraction}; it must be above 0 and at most 1.")
