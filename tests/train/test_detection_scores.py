"""Average precision of detections, compared with VOC's development kit and torchmetrics."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from harness.train.detection_scores import DetectionCounts, intersection_over_union
from harness.train.divergence import DivergedError
from writers.errors import UserError

NUM_CLASSES = 3
NUM_IMAGES = 1000
Image = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def slow_precisions(images: list[Image], label: int) -> tuple[Fraction, Fraction] | None:
    """Compute 11-point precision and area of a class, step by step as in the kit's VOCevaldet.m.

    Returns None if the class has no object that is not difficult.
    """
    truth, num_positive = [], 0
    for _, (boxes, labels, difficult) in images:
        own = [
            {"box": box.tolist(), "difficult": bool(hard), "found": False}
            for box, number, hard in zip(boxes, labels, difficult, strict=True)
            if number == label
        ]
        truth.append(own)
        num_positive += sum(not thing["difficult"] for thing in own)
    if not num_positive:
        return None
    found = [
        (-score, number, box.tolist())
        for number, ((boxes, labels, scores), _) in enumerate(images)
        for box, own, score in zip(boxes, labels, scores, strict=True)
        if own == label
    ]
    found.sort(key=lambda entry: entry[0])
    true = false = 0
    recalls, precisions = [], []
    for _, number, box in found:
        best, best_thing = -1.0, None
        for thing in truth[number]:
            # The kit counts pixels from 1, and both corners belong to the box.
            own, other = [box[0] + 1, box[1] + 1, *box[2:]], thing["box"]
            other = [other[0] + 1, other[1] + 1, *other[2:]]
            width = min(own[2], other[2]) - max(own[0], other[0]) + 1
            height = min(own[3], other[3]) - max(own[1], other[1]) + 1
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            covered = (own[2] - own[0] + 1) * (own[3] - own[1] + 1)
            covered += (other[2] - other[0] + 1) * (other[3] - other[1] + 1) - shared
            if shared / covered > best:
                best, best_thing = shared / covered, thing
        if best < 0.5:
            false += 1
        elif best_thing["difficult"]:
            continue
        elif best_thing["found"]:
            false += 1
        else:
            best_thing["found"] = True
            true += 1
        recalls.append(Fraction(true, num_positive))
        precisions.append(Fraction(true, true + false))
    eleven = Fraction(0)
    for tenth in range(11):
        reached = [
            precision
            for recall, precision in zip(recalls, precisions, strict=True)
            if recall >= Fraction(tenth, 10)
        ]
        eleven += max(reached, default=Fraction(0)) / 11
    # Area as in VOC 2010: make precision monotone from the right, then integrate over recall.
    recalls, precisions = [Fraction(0), *recalls, Fraction(1)], [Fraction(0), *precisions, 0]
    for place in reversed(range(len(precisions) - 1)):
        precisions[place] = max(precisions[place], precisions[place + 1])
    area = sum(
        (recalls[place] - recalls[place - 1]) * precisions[place]
        for place in range(1, len(recalls))
    )
    return eleven, area


def made_images(*, apart: bool, seed: int) -> list[Image]:
    """Make images of up to five objects, with shifted, doubled, missed and invented detections.

    Args:
        apart: True keeps the objects of an image apart and makes none difficult.
        seed: seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    images = []
    for _ in range(NUM_IMAGES):
        num_objects = int(random.integers(0, 6))
        sides = random.integers(8, 40, (num_objects, 2))
        corners = random.integers(0, 60, (num_objects, 2))
        if apart:
            corners[:, 0] += 200 * np.arange(num_objects)
        truth = np.concatenate([corners, corners + sides], 1).astype(np.float64)
        labels = random.integers(0, NUM_CLASSES, num_objects)
        difficult = random.random(num_objects) < (0 if apart else 0.25)
        copies = np.repeat(np.arange(num_objects), random.integers(0, 4, num_objects))
        shifted = truth[copies] + random.integers(-7, 8, (len(copies), 4))
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        corners = random.integers(0, 80, (2, 2))
        invented = np.concatenate([corners, corners + random.integers(5, 30, (2, 2))], 1)
        boxes = np.concatenate([shifted, invented]).astype(np.float64)
        classes = np.concatenate([labels[copies], random.integers(0, NUM_CLASSES, 2)])
        wrong = random.random(len(classes)) < 0.1
        classes[wrong] = random.integers(0, NUM_CLASSES, wrong.sum())
        scores = random.random(len(boxes))
        images.append(((boxes, classes, scores), (truth, labels, difficult)))
    return images


def counted(images: list[Image], num_classes: int = NUM_CLASSES) -> DetectionCounts:
    counts = DetectionCounts(num_classes)
    for detected, objects in images:
        counts.add(detected, objects)
    return counts


@pytest.fixture(scope="module")
def crowded() -> list[Image]:
    return made_images(apart=False, seed=0)


@pytest.fixture(scope="module")
def sparse() -> list[Image]:
    return made_images(apart=True, seed=1)


def test_precisions_equal_those_of_the_kit_on_a_thousand_images(crowded: list[Image]) -> None:
    precisions, slow = counted(crowded).by_class(), []
    for label in range(NUM_CLASSES):
        expected = slow_precisions(crowded, label)
        own = precisions[label]
        assert expected is not None and own is not None
        assert own.eleven_point == pytest.approx(float(expected[0]), abs=1e-12)
        assert own.area == pytest.approx(float(expected[1]), abs=1e-12)
        slow.append(expected)
    scores = counted(crowded).scores()
    assert scores["map50_11"] == pytest.approx(float(sum(one for one, _ in slow) / 3), abs=1e-12)
    assert scores["map50"] == pytest.approx(float(sum(area for _, area in slow) / 3), abs=1e-12)
    assert 0.1 < scores["map50"] < 0.9 and scores["num_images"] == NUM_IMAGES


def test_difficult_objects_change_the_scores_of_the_crowded_images(crowded: list[Image]) -> None:
    """Otherwise, the comparison with the kit would not test the rules for difficult objects."""
    easy = [
        (detected, (boxes, labels, np.zeros_like(difficult)))
        for detected, (boxes, labels, difficult) in crowded
    ]
    assert counted(easy).scores()["map50"] != counted(crowded).scores()["map50"]


def coco_precisions(images: list[Image], recalls: np.ndarray) -> np.ndarray:
    """Compute each class's precision at the given recalls by torchmetrics, [len(recalls), K]."""
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_type="bbox",
        iou_thresholds=[0.5],
        rec_thresholds=recalls.tolist(),
        extended_summary=True,
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    metric.update(
        [
            {
                "boxes": torch.from_numpy(boxes),
                "labels": torch.from_numpy(labels),
                "scores": torch.from_numpy(scores),
            }
            for (boxes, labels, scores), _ in images
        ],
        [
            {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
            for _, (boxes, labels, _) in images
        ],
    )
    return metric.compute()["precision"][0, :, :, 0, -1].numpy()


def test_precisions_equal_those_of_torchmetrics_on_a_thousand_images(sparse: list[Image]) -> None:
    """The objects are apart: on others, COCO assigns detections differently than VOC."""
    own = counted(sparse).by_class()
    eleven = np.arange(11) / 10
    steps = [np.arange(1, one.num_objects + 1) / one.num_objects for one in own if one is not None]
    recalls = np.unique(np.concatenate([eleven, *steps]))
    precisions = coco_precisions(sparse, recalls)
    assert len(own) == len(steps) == precisions.shape[1] == NUM_CLASSES
    for label, one in enumerate(own):
        assert one is not None
        at_eleven = precisions[np.isin(recalls, eleven), label]
        at_steps = precisions[np.isin(recalls, steps[label]), label]
        assert len(at_eleven) == 11 and len(at_steps) == one.num_objects
        assert one.eleven_point == pytest.approx(at_eleven.mean(), abs=1e-6)
        assert one.area == pytest.approx(at_steps.mean(), abs=1e-6)


def one_image(
    detected: list[tuple[float, ...]], objects: list[tuple[float, ...]]
) -> tuple[float, float]:
    """Return 11-point precision and area of class 0 in one image.

    Args:
        detected: rows of four corners and a score.
        objects: rows of four corners and 1 if the object is difficult, else 0.
    """
    found, truth = (np.array(rows, np.float64).reshape(-1, 5) for rows in (detected, objects))
    counts = counted(
        [
            (
                (found[:, :4], np.zeros(len(found), np.int64), found[:, 4]),
                (truth[:, :4], np.zeros(len(truth), np.int64), truth[:, 4] > 0),
            )
        ]
    )
    (precision, *_) = counts.by_class()
    assert precision is not None
    return precision.eleven_point, precision.area


def test_a_second_detection_of_an_object_is_a_false_positive() -> None:
    thing = (0, 0, 10, 10)
    other = (50, 50, 60, 60)
    once = one_image([(*thing, 0.9), (*other, 0.7)], [(*thing, 0), (*other, 0)])
    twice = one_image([(*thing, 0.9), (*thing, 0.8), (*other, 0.7)], [(*thing, 0), (*other, 0)])
    assert once == (1, 1)
    assert twice[1] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert twice[0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_detection_does_not_move_to_the_second_best_object() -> None:
    """COCO would assign it to the other object; the kit counts a false positive."""
    thing, neighbor = (0, 0, 10, 10), (2, 0, 12, 10)
    between = (0, 0, 10.5, 10)
    assert one_image([(*thing, 0.9), (*between, 0.8)], [(*thing, 0), (*neighbor, 0)])[1] == 0.5


def test_a_detection_of_a_difficult_object_is_ignored() -> None:
    thing, hard = (0, 0, 10, 10), (50, 50, 60, 60)
    assert one_image([(*hard, 0.9), (*hard, 0.8), (*thing, 0.7)], [(*thing, 0), (*hard, 1)]) == (
        1,
        1,
    )


@pytest.mark.parametrize(("right", "expected"), [(10, 1.0), (9.99, 0.0)])
def test_an_iou_of_exactly_one_half_is_enough(right: float, expected: float) -> None:
    assert one_image([(0, 0, right, 10, 0.9)], [(0, 0, 20, 10, 0)]) == (expected, expected)


def test_iou_of_boxes_that_touch_is_zero() -> None:
    box = np.array([[0.0, 0, 10, 10]])
    assert intersection_over_union(box, np.array([[10.0, 0, 20, 10]])) == [0]
    assert intersection_over_union(box, np.array([[5.0, 0, 15, 10]])) == pytest.approx([1 / 3])


def test_a_class_without_objects_is_left_out_of_the_mean() -> None:
    box, nothing = np.array([[0.0, 0, 10, 10]]), np.zeros(0)
    counts = DetectionCounts(3)
    counts.add((box, np.array([0]), np.array([0.5])), (box, np.array([0]), np.array([False])))
    counts.add((box, np.array([2]), np.array([0.9])), (box, np.array([1]), np.array([True])))
    counts.add((nothing.reshape(0, 4), nothing, nothing), (nothing.reshape(0, 4), nothing, nothing))
    precisions = counts.by_class()
    assert precisions[0] is not None and precisions[1:] == [None, None]
    assert counts.scores()["map50_11"] == 1
    assert counts.scores()["num_images"] == 3 and counts.scores()["num_detections"] == 2


def test_precision_without_any_detection_is_zero() -> None:
    assert one_image([], [(0, 0, 10, 10, 0)]) == (0, 0)


def test_refuses_a_split_without_objects() -> None:
    with pytest.raises(UserError, match="no image to score"):
        DetectionCounts(2).scores()
    with pytest.raises(UserError, match="No image of this split"):
        one = (np.array([[0.0, 0, 1, 1]]), np.array([0]), np.array([True]))
        counts = DetectionCounts(2)
        counts.add((one[0], one[1], np.array([0.5])), one)
        counts.scores()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_detections_that_are_not_finite(value: float) -> None:
    box, objects = np.zeros((1, 4)), (np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    with pytest.raises(DivergedError, match="not finite"):
        DetectionCounts(2).add((box, np.zeros(1), np.array([value])), objects)
