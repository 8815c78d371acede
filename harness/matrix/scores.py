"""Scores of a classifier on a set of images, as results hold them."""

from typing import Required

from typing_extensions import TypedDict


class Scores(TypedDict, total=False):
    """Fractions of the images, unless noted otherwise.

    All have num_images. Images with labels have top1, top5, loss and num_correct. With one label
    they also have mean_per_class; with several map and map11 (11-point mean average precision, as
    VOC 2007). Images with boxes have map50_11 and map50 (mean average precision at IoU 0.5, at 11
    recalls and at all), num_objects and num_detections.
    """

    top1: float
    top5: float
    mean_per_class: float
    map: float
    map11: float
    map50_11: float
    map50: float
    loss: float  # mean cross entropy, nats
    num_images: Required[int]
    num_correct: int
    num_objects: int
    num_detections: int
