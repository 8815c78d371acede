"""Look up the ImageNet accuracy that timm publishes for its weights.

timm's package does not include its results. `timm_imagenet.csv` is a copy of the columns model,
img_size, crop_pct, top1 and top5 of results/results-imagenet.csv in
huggingface/pytorch-image-models, commit 4e5207c. The accuracies were measured on ImageNet's 50,000
validation images.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("timm_imagenet.csv")


@dataclass(frozen=True)
class PublishedAccuracy:
    """Published accuracy of weights at one resolution and crop.

    Attributes:
        resolution: side of the images, in pixels.
        crop_fraction: side of the center crop, as a fraction of the shorter side.
        top1: top-1 accuracy, in [0, 1].
        top5: top-5 accuracy, in [0, 1].
    """

    resolution: int
    crop_fraction: float
    top1: float
    top5: float


def timm_accuracy(
    name_and_tag: str, resolution: int, crop_fraction: float
) -> PublishedAccuracy | None:
    """Return the accuracy of timm's weights at the published resolution and crop nearest to these.

    Args:
        name_and_tag: name of timm's weights, such as `inception_v3.tv_in1k`.
        resolution: side of the images, in pixels.
        crop_fraction: side of the center crop, as a fraction of the shorter side.

    Returns:
        The accuracy; None if timm has not published a result.
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
