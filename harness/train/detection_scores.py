"""Scores of detections: mean average precision at IoU 0.5, as PASCAL VOC 2007 defines it.

The rules follow VOC 2007's development kit (`VOCevaldet.m`; Everingham et al. 2010, section
4.2). Within a class, detections are processed by falling score. Each detection is compared with one
object: the object of its image and class that it overlaps most, even if an earlier detection has
found that object. The detection is a true positive if the IoU is at least 0.5 and the object was
not found before. It is ignored if the IoU is at least 0.5 and the object is difficult. In all other
cases it is a false positive. Difficult objects are not counted.

Boxes are left, top, right and bottom, where right and bottom are exclusive. The kit uses inclusive
corners and widths of `right - left + 1`, so both conventions give the same areas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.matrix.scores import Scores
from harness.train.divergence import DivergedError
from writers.errors import UserError

MIN_IOU = 0.5
NUM_RECALLS = 11

Floats = np.ndarray
Integers = np.ndarray


@dataclass(frozen=True)
class Objects:
    """Annotated objects of images, in the order of images and of annotations.

    Attributes:
        image: index of each object's image, int64 [G].
        boxes: left, top, right and bottom in pixels, float64 [G, 4].
        labels: class of each object, int64 [G].
        difficult: True if the object is marked as difficult, bool [G].
    """

    image: Integers
    boxes: Floats
    labels: Integers
    difficult: np.ndarray


@dataclass(frozen=True)
class Detected:
    """Detections in images.

    Attributes:
        image: index of each detection's image, int64 [D].
        boxes: left, top, right and bottom in pixels, float64 [D, 4].
        labels: predicted class, int64 [D].
        scores: confidence, higher is more certain, float64 [D].
    """

    image: Integers
    boxes: Floats
    labels: Integers
    scores: Floats


@dataclass(frozen=True)
class ClassPrecision:
    """Average precisions of one class.

    Attributes:
        eleven_point: mean over r = 0, 0.1, ..., 1 of the highest precision at a recall of at least
            r (VOC 2007).
        area: integral over all r of that highest precision (VOC 2010 and later).
        num_objects: number of objects that are not difficult.
        num_detections: number of detections that are true or false positives.
    """

    eleven_point: float
    area: float
    num_objects: int
    num_detections: int


class DetectionCounts:
    """Keep the detections and objects of all images: average precision ranks all detections."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._num_images = 0
        self._objects: list[tuple[Floats, Integers, np.ndarray]] = []
        self._detected: list[tuple[Floats, Integers, Floats]] = []

    def add(
        self,
        detected: tuple[Floats, Integers, Floats],
        objects: tuple[Floats, Integers, np.ndarray],
    ) -> None:
        """Add an image.

        Args:
            detected: boxes [D, 4], classes [D] and scores [D] of the detections.
            objects: boxes [G, 4], classes [G] and difficult flags [G] of the annotated objects.

        Raises:
            DivergedError: a box or a score of a detection is not finite.
        """
        boxes, _, scores = detected
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DivergedError(
                f"A detection in image {self._num_images + 1} is not finite.",
                "Lower the learning rate, or use precision: float32.",
            )
        self._detected.append(detected)
        self._objects.append(objects)
        self._num_images += 1

    def by_class(self) -> list[ClassPrecision | None]:
        """Compute the average precisions of each class; see `average_precisions`."""
        return average_precisions(self.detected, self.objects, self._num_classes)

    def scores(self) -> Scores:
        """Compute the scores of all images.

        Returns:
            `map50_11` and `map50`: means of `ClassPrecision.eleven_point` and `area` over classes
            with an object that is not difficult. `num_images`: all images. `num_objects`: objects
            that are not difficult. `num_detections`: all detections, including ignored ones.

        Raises:
            UserError: no image was added, or no image has an object that is not difficult.
        """
        if not self._num_images:
            raise UserError("There is no image to score.", "Check that the split is not empty.")
        present = [one for one in self.by_class() if one is not None]
        if not present:
            raise UserError(
                "No image of this split has an object that counts.",
                "Check that the right split was written, and that not all objects are difficult.",
            )
        return {
            "map50_11": float(np.mean([one.eleven_point for one in present])),
            "map50": float(np.mean([one.area for one in present])),
            "num_images": self._num_images,
            "num_objects": sum(one.num_objects for one in present),
            "num_detections": sum(len(scores) for _, _, scores in self._detected),
        }

    @property
    def detected(self) -> Detected:
        """Return the detections in all images, image by image."""
        boxes, labels, scores = zip(*self._detected, strict=True)
        return Detected(
            _image_numbers(labels),
            _joined(boxes, np.float64).reshape(-1, 4),
            _joined(labels, np.int64),
            _joined(scores, np.float64),
        )

    @property
    def objects(self) -> Objects:
        """Return the objects of all images, image by image."""
        boxes, labels, difficult = zip(*self._objects, strict=True)
        return Objects(
            _image_numbers(labels),
            _joined(boxes, np.float64).reshape(-1, 4),
            _joined(labels, np.int64),
            _joined(difficult, np.bool_),
        )


def average_precisions(
    detected: Detected, objects: Objects, num_classes: int
) -> list[ClassPrecision | None]:
    """Compute the average precisions of each class.

    Detections of equal score are processed in the given order.

    Args:
        detected: detections in all images.
        objects: objects of all images.
        num_classes: number of classes.

    Returns:
        One entry per class; None if the class has no object that is not difficult.
    """
    best, best_iou = match(detected, objects)
    found = best_iou >= MIN_IOU
    counts = ~(found & objects.difficult[best]) if len(objects.labels) else np.ones_like(found)
    order = np.argsort(-detected.scores, kind="stable")
    order = order[counts[order]]
    # The detection of highest score that finds an object is the true positive.
    hits = order[found[order]]
    _, first = np.unique(best[hits], return_index=True)
    is_true = np.zeros(len(found), dtype=np.bool_)
    is_true[hits[first]] = True
    precisions: list[ClassPrecision | None] = []
    for label in range(num_classes):
        num_objects = int((~objects.difficult & (objects.labels == label)).sum())
        of_class = order[detected.labels[order] == label]
        precisions.append(_precision(is_true[of_class], num_objects) if num_objects else None)
    return precisions


def match(detected: Detected, objects: Objects) -> tuple[Integers, Floats]:
    """Find, for each detection, the object of its image and class that it overlaps most.

    Returns:
        Index of the object, int64 [D], and the IoU, float64 [D]. If several objects have the same
        IoU, the first one is taken. If the IoU is 0, the index has no meaning.
    """
    best, best_iou = np.zeros(len(detected.labels), np.int64), np.zeros(len(detected.labels))
    if not len(objects.labels) or not len(detected.labels):
        return best, best_iou
    num_classes = 1 + max(int(objects.labels.max()), int(detected.labels.max()))
    groups = objects.image * num_classes + objects.labels
    wanted = detected.image * num_classes + detected.labels
    order = np.argsort(groups, kind="stable")
    start = np.searchsorted(groups[order], wanted, "left")
    num_rivals = np.searchsorted(groups[order], wanted, "right") - start
    # List all pairs of a detection and an object of its image and class, detection by detection.
    with_rivals = np.flatnonzero(num_rivals)
    num_rivals, start = num_rivals[with_rivals], start[with_rivals]
    if not len(with_rivals):
        return best, best_iou
    first_pair = np.cumsum(num_rivals) - num_rivals
    place = np.arange(num_rivals.sum()) - np.repeat(first_pair - start, num_rivals)
    rival = order[place]
    iou = intersection_over_union(
        detected.boxes[np.repeat(with_rivals, num_rivals)], objects.boxes[rival]
    )
    highest = np.maximum.reduceat(iou, first_pair)
    is_highest = iou == np.repeat(highest, num_rivals)
    best_iou[with_rivals] = highest
    best[with_rivals] = np.minimum.reduceat(
        np.where(is_highest, rival, len(objects.labels)), first_pair
    )
    return best, best_iou


def intersection_over_union(boxes: Floats, others: Floats) -> Floats:
    """Compute the intersection over union of the i-th box of `boxes` and of `others`.

    Args:
        boxes: left, top, right and bottom, float64 [N, 4].
        others: left, top, right and bottom, float64 [N, 4].

    Returns:
        float64 [N]; 0 if the boxes do not overlap.
    """
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    covered = _areas(boxes) + _areas(others) - shared
    ratio: Floats = np.divide(shared, covered, out=np.zeros_like(shared), where=shared > 0)
    return ratio


def _areas(boxes: Floats) -> Floats:
    areas: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _precision(is_true: np.ndarray, num_objects: int) -> ClassPrecision:
    """Compute the precisions of a class.

    Args:
        is_true: True for true positives, by falling score, bool [D].
        num_objects: number of objects that are not difficult.
    """
    num_true = is_true.cumsum()
    precision = num_true / np.arange(1, len(is_true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recalls are compared as integers, because 3/10 is below 3 * 0.1 in floating point.
    reached = 10 * num_true[:, None] >= np.arange(NUM_RECALLS) * num_objects
    return ClassPrecision(
        float(np.where(reached, precision[:, None], 0.0).max(0, initial=0.0).mean()),
        float(envelope[is_true].sum() / num_objects),
        num_objects,
        len(is_true),
    )


def _image_numbers(columns: Sequence[np.ndarray]) -> Integers:
    return np.repeat(np.arange(len(columns)), [len(column) for column in columns])


def _joined(columns: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(column, dtype=dtype) for column in columns])
