"""ImageNet accuracy that timm publishes for its weights.

timm's package has no results. `timm_imagenet.csv` holds the columns model, img_size, crop_pct, top1
and top5 of results/results-imagenet.csv in huggingface/pytorch-image-models, commit 4e5207c.
Accuracies are on ImageNet's 50,000 validation images.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("timm_imagenet.csv")


@dataclass(frozen=True)
class PublishedAccuracy:
    """Accuracy of published weights at one input.

    Attributes:
        resolution: pixels per side.
        crop_fraction: center crop, as a fraction of the shorter side.
        top1: in [0, 1], as top5.
    """

    resolution: int
    crop_fraction: float
    top1: float
    top5: float


def timm_accuracy(
    name_and_tag: str, resolution: int, crop_fraction: float
) -> PublishedAccuracy | None:
    """Return the accuracy of timm's weights at the input nearest to the given one.

    Args:
        name_and_tag: such as `inception_v3.tv_in1k`.
        resolution: pixels per side.
        crop_fraction: center crop, as a fraction of the shorter side.

    Returns:
        None if timm has published no result.
    """
    return min(
        _published().get(name_and_tag, ()),
        key=lambda row: (abs(row.resolution - resolution), abs(row.crop_fraction - crop_fraction)),
        default=None,
    )


@cache
def _published() -> dict[str, tuple[PublishedAccuracy, ...]]:
    results: dict[str, tuple[PublishedAccuracy, ...]] = {}
    with FILE.open(newline="") as lines:
        for row in csv.DictReader(lines):
            accuracy = PublishedAccuracy(
                int(row["img_size"]),
                float(row["crop_pct"]),
                float(row["top1"]) / 100,
                float(row["top5"]) / 100,
            )
            results[row["model"]] = (*results.get(row["model"], ()), accuracy)
    return results
