"""A loaded model is evaluated on the source with its saved resolution, crop and class order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.modeling import classifier as models
from harness.runner.result import Result
from harness.stages.evaluate import run as evaluate
from harness.stages.pretrain.spec import MODEL_FILE
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import as_result, context_of

CONFIG = {
    "settings": {"batch_size": 7},
    "eps": 0.0,
    "resolution": None,
    "eval_crop": None,
    "interpolation": "auto",
    "precision": "float32",
    "flip_tta": False,
}
VIEW = {"resolution": 16, "eval_crop": 0.8, "interpolation": "bilinear"}


def measured(root: Path, folder: Path, source: Result, **config: Any) -> Any:
    needs = {"model": as_result("adopt", {}), "data": source}
    context = context_of(root, "measured", {**CONFIG, **config}, needs)
    folders = {**context.need_folders, "model": folder}
    return evaluate.run(replace(context, need_folders=folders)).metrics


@pytest.fixture
def reordered(root: Path, model: Result, source: Result, tmp_path: Path) -> models.Classifier:
    """The trained model, saved with its classes reordered and with the settings of VIEW."""
    loaded, about = models.load(root / "model" / MODEL_FILE)
    order = [2, 0, 1]
    with torch.no_grad():
        loaded.head.weight.copy_(loaded.head.weight[order])
        loaded.head.bias.copy_(loaded.head.bias[order])
    models.set_normalization(loaded, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    classes = [source.metrics["classes"][label] for label in order]
    models.save(tmp_path / MODEL_FILE, loaded, {**about, **VIEW, "classes": classes})
    return loaded.eval()


def test_the_accuracy_equals_that_of_a_loop_over_the_images(
    root: Path, source: Result, reordered: models.Classifier, tmp_path: Path
):
    file = root / "data" / source.metrics["splits"]["val"]["path"]
    counts = {}
    for resolution, crop in ((16, 0.8), (24, 1.0)):
        plan = LoaderPlan(
            file, 5, resolution, center_fraction=crop, interpolation="bilinear", device="cpu"
        )
        correct = 0
        with open_loader(plan) as loader, loader.epoch(0) as batches, torch.no_grad():
            for images, labels in batches:
                answers = reordered(images).argmax(1)
                correct += int((torch.tensor([2, 0, 1])[answers] == labels).sum())
        counts[resolution] = correct
    metrics = measured(root, tmp_path, source)
    assert metrics["clean"]["own"]["num_correct"] == counts[16]
    assert metrics["clean"]["own"]["num_images"] == 24 and metrics["adversarial"] is None
    assert {name: metrics[name] for name in VIEW} == VIEW
    by_class = metrics["per_class"]["clean"]["own"]
    assert sum(by_class) == counts[16] and len(by_class) == 3
    # The recipe's entry for the model may set resolution and crop instead.
    metrics = measured(root, tmp_path, source, resolution=24, eval_crop=1.0)
    assert metrics["clean"]["own"]["num_correct"] == counts[24] > 8
    assert (metrics["resolution"], metrics["eval_crop"]) == (24, 1.0)


@pytest.mark.parametrize(
    ("changes", "num_classes", "reason"),
    [
        ({"has_head": False, "classes": []}, 3, "the model has no classifier"),
        ({}, 21_841, "the model has 21,841 classes, and the source has 3"),
        (
            {"classes": ["color0", "blue", "color2"]},
            3,
            "the model lacks 1 of the 3 classes of the source, such as color1",
        ),
    ],
)
def test_a_model_with_other_classes_gets_a_reason_instead_of_scores(
    root: Path, source: Result, tmp_path: Path, changes: dict, num_classes: int, reason: str
):
    model = models.build("resnet10", num_classes, channels=(8, 8, 8, 8))
    about = {"arch": "resnet10", "channels": [8, 8, 8, 8], **VIEW}
    about["classes"] = list(map(str, range(num_classes)))
    models.save(tmp_path / MODEL_FILE, model, {**about, **changes})
    metrics = measured(root, tmp_path, source)
    assert metrics["not_measured"] == reason and metrics["clean"] == {}
    assert "predictions" not in metrics
