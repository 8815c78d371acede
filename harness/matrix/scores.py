"""Scores of a classifier on a set of images, as results hold them."""

from typing import TypedDict


class Scores(TypedDict, total=False):
    """Fractions of the images, unless noted otherwise.

    top1, top5 and the counts are always present; mean_per_class if an image has one label; map and
    map11 (11-point mean average precision, as VOC 2007) if it has several.
    """

    top1: float
    top5: float
    mean_per_class: float
    map: float
    map11: float
    loss: float  # mean cross entropy, nats
    num_images: int
    num_correct: int
