"""The transfer stage with method detection: scores agree with its file of detections."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.modeling import classifier
from harness.runner.context import Outcome
from harness.stages.transfer.run import run
from harness.train.detection_scores import average_precisions
from harness.train.predictions import read_detections
from harness.transfer.methods.detection.settings import DetectionSettings
from tests.helpers.boxed_source import CLASSES, source_of
from tests.helpers.tiny_stages import as_result, context_of
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.subset.spec import everything

SPLITS = {"train": range(3), "val": range(3, 4), "test": range(4, 6)}
SETTINGS = DetectionSettings(
    method="detection",
    short_side=48,
    long_side=64,
    anchors=(48.0,),  # as large as the objects, so that some are found
    batch_size=2,
    epochs=1,
    lrs=(0.01,),
    regions_per_image=16,
    refit=False,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Run the stage on six images; return its folder and its outcome."""
    root = tmp_path_factory.mktemp("stages")
    written: dict[str, Any] = {}
    for split, numbers in SPLITS.items():
        source = source_of(numbers)
        source.splits = {split: source.splits["train"]}
        file = root / "data" / "boxed" / f"{split}.beton"
        write_split(source, split, everything(CLASSES), Encoding(), file, num_threads=1)
        written[split] = {"path": f"boxed/{split}.beton", "num_samples": len(numbers)}
    (root / "model").mkdir()
    torch.manual_seed(0)
    about = {"arch": "resnet10", "channels": [16, 16, 16, 16], "resolution": 48, "eps": 0.0}
    model = classifier.build("resnet10", 3, channels=(16, 16, 16, 16))
    classifier.save(root / "model" / "model.pt", model, about)
    config = {
        "method": "detection",
        "metric": "map50_11",
        "seed": 0,
        "settings": SETTINGS.resolved(),
    }
    needs = {
        "data": as_result("write", {"splits": written, "classes": CLASSES}),
        "model": as_result("pretrain", {}),
    }
    context = context_of(root, "transfer", config, needs)
    return context.folder, run(context)


def test_the_scores_can_be_recomputed_from_the_file(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    metrics = outcome.metrics
    ids, detected, objects = read_detections(folder / metrics["detections"])
    precisions = average_precisions(detected, objects, len(CLASSES))
    present = [one for one in precisions if one is not None]
    test = metrics["test"]
    assert test["map50"] > 0
    assert test["map50_11"] == np.mean([one.eleven_point for one in present])
    assert test["map50"] == np.mean([one.area for one in present])
    assert test["num_detections"] == len(detected.scores) > 0
    assert test["num_images"] == len(ids) == 2
    assert "predictions" not in metrics  # only classifiers have this file


def test_the_file_has_the_images_and_objects_of_the_beton(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    ids, detected, objects = read_detections(folder / outcome.metrics["detections"])
    beton = open_beton(folder.parent / "data" / "boxed" / "test.beton")
    place = {sample: number for number, sample in enumerate(beton.ids.tolist())}
    for number, sample in enumerate(ids.tolist()):
        row = beton.rows[place[sample]]
        own = objects.image == number
        boxes = beton.boxes(place[sample])
        assert np.array_equal(objects.boxes[own], boxes[:, :4])
        assert np.array_equal(objects.labels[own], boxes[:, 4])
        assert np.array_equal(objects.difficult[own], boxes[:, 5] != 0)
        found = detected.boxes[detected.image == number]
        assert (found >= 0).all() and (found[:, :2] <= found[:, 2:]).all()
        # boxes were scaled back from the resized image, in float32
        assert (found[:, 2:] <= np.array([row["width"], row["height"]]) + 0.01).all()
    assert ((detected.labels >= 0) & (detected.labels < len(CLASSES))).all()
