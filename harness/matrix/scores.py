"""Scores of a classifier on a set of images, as results hold them."""

from typing import Required

from typing_extensions import TypedDict


class Scores(TypedDict, total=False):
    """Fractions of the images, unless noted otherwise.

    Every record has num_images. For images with labels there are top1, top5, loss and num_correct;
    if each image has one label, also mean_per_class; if images have several labels, also map and
    map11 (mean average precision; map11 at 11 recalls, as in VOC 2007). For images with boxes there
    are map50_11 and map50 (mean average precision at IoU 0.5; map50_11 at 11 recalls, map50 at
    all), num_objects and num_detections.
    """

    top1: float
    top5: float
    mean_per_class: float
    map: float
    map11: float
    map50_11: float
    map50: float
    loss: float  # mean over images, in nats; see `harness.train.loss.image_losses`
    num_images: Required[int]
    num_correct: int
    num_objects: int
    num_detections: int
