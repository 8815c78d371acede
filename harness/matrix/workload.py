"""Work of a stage, for the time estimate: kinds of steps, and the number of images in each."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Counts:
    """Sizes of a written dataset."""

    splits: dict[str, int]  # split -> number of images
    num_classes: int


@dataclass(frozen=True)
class Workload:
    """Images that pass through one kind of step.

    Attributes:
        step: plain JSON with everything that the time of a step depends on. Equal steps
            take equal time in any stage.
        batch_size: images per step.
        num_images: images that pass through such steps; an image that passes twice counts twice.
    """

    step: dict[str, Any]
    batch_size: int
    num_images: float

    @cached_property
    def key(self) -> str:
        """Key of the step; equal steps have equal keys."""
        return step_key(self.step)


def step_key(step: dict[str, Any]) -> str:
    """Serialize a step, as a key for measured times."""
    return json.dumps(step, sort_keys=True)
