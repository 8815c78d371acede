"""Scores of a classifier on a set of images, as results hold them."""

from typing import Required

from typing_extensions import TypedDict


class Scores(TypedDict, total=False):
    """Fractions of the images, unless noted otherwise.

    Every record has num_images. Images with labels give top1, top5, loss and num_correct. If each
    image has one label, there is also mean_per_class. If images have several labels, there are also
    map and map11: mean average precision at all recalls, and at 11 recalls as in VOC 2007. Images
    with boxes give num_objects, num_detections, map50 and map50_11: mean average precision at IoU
    0.5, at all recalls and at 11 recalls.
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
