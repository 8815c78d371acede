"""A recipe that measures the accuracy of checkpoints, from the plan to the report.

Source dataset and checkpoints are made by the test.
"""

import csv
import importlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from harness.modeling import classifier as models
from harness.report.render.page import write
from harness.runner.context import StageContext
from harness.runner.result import Result
from harness.system.folders import Folders
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import as_result
from writers.dataset import SplitSettings, open_dataset


def recipe(classes: Path) -> Recipe:
    of_file = {"checkpoint": "mine.pt", "arch": "resnet10"}
    return Recipe.model_validate(
        {
            "name": "measured",
            "source": {"dataset": "synthetic_patterns"},
            "encoding": {"format": "raw", "max_resolution": 32},
            "source_accuracy": "measured",
            "models": [
                {"name": "mine", "classes": str(classes), "resolution": 32, "imagenet_top1": 0.5}
                | of_file,
                {"name": "headless", "classes": None} | of_file,
                {"name": "imagenet", "checkpoint": "other.pt", "arch": "resnet10"},
            ],
        }
    )


def run(recipe: Recipe, folders: Folders) -> list[Result]:
    """Run the stages in this process, and return their results."""
    results: dict[str, Result] = {}
    for stage in expand(recipe).stages:
        folder = stage.folder(folders.runs)
        folder.mkdir(parents=True)
        context = StageContext(
            config=stage.config,
            folder=folder,
            needs={role: results[need.key] for role, need in stage.needs.items()},
            need_folders={role: need.folder(folders.runs) for role, need in stage.needs.items()},
            data=folders.data,
            raw=folders.raw,
            num_threads=1,
            device="cpu",
        )
        outcome = importlib.import_module(f"harness.stages.{stage.kind}.run").run(context)
        own = {"key": stage.key, "name": stage.name, "axes": stage.axes, "config": stage.config}
        needs = {role: need.key for role, need in stage.needs.items()}
        results[stage.key] = as_result(stage.kind, dict(outcome.metrics)).model_copy(
            update={**own, "needs": needs}
        )
    return list(results.values())


def save_checkpoints(folders: Folders, classes: Path) -> models.Classifier:
    """Save two checkpoints in the weights folder, and return the model of the first.

    mine.pt classifies most val images correctly; its 8 classes are in reverse order, as the file
    `classes` lists them. other.pt has random weights and 1000 classes.
    """
    weights = folders.raw / "weights"
    weights.mkdir(parents=True)
    source = open_dataset(
        "synthetic_patterns", folders.raw / "synthetic_patterns", SplitSettings(test=0.0)
    )
    classes.write_text("\n".join(reversed(source.classes)))
    torch.manual_seed(0)
    model = models.build("resnet10", 8).eval()
    examples = source.splits["val"]
    pixels = [Image.open(io.BytesIO(source.read(one))).resize((32, 32)) for one in examples]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    reverse = torch.tensor([7 - one.label for one in examples])
    with torch.no_grad():
        wanted = torch.nn.functional.one_hot(reverse, 8).float()
        weight = torch.linalg.lstsq(model.features(images), wanted, driver="gelsd").solution
        model.head.weight.copy_(weight.T)
        model.head.bias.zero_()
    torch.save(models.build("resnet10", 1000).state_dict(), weights / "other.pt")
    torch.save(model.state_dict(), weights / "mine.pt")
    return model


def test_checkpoints_are_measured_and_reported(tmp_path: Path):
    folders = Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")
    model = save_checkpoints(folders, tmp_path / "classes.txt")
    results = run(recipe(tmp_path / "classes.txt"), folders)
    [written] = [result for result in results if result.kind == "write"]
    assert list(written.metrics["splits"]) == ["val"]
    file = folders.data / written.metrics["splits"]["val"]["path"]
    correct = 0
    plan = LoaderPlan(file, 128, 32, center_fraction=0.875, device="cpu")
    with open_loader(plan) as loader, loader.epoch(0) as batches, torch.inference_mode():
        for images, labels in batches:
            correct += int((7 - model(images).argmax(1) == labels).sum())

    assert 40 < correct < 160  # far from chance (20), so the order of the classes matters

    path = write(recipe(tmp_path / "classes.txt"), results, [], tmp_path / "report")
    rows = {
        row["model"]: row for row in csv.DictReader((path.parent / "source_accuracy.csv").open())
    }
    assert float(rows["mine"]["measured"]) == correct / 160
    assert (rows["mine"]["num_images"], rows["mine"]["resolution"]) == ("160", "32")
    assert rows["headless"]["not_measured"] == "the model has no classifier"
    assert rows["imagenet"]["not_measured"].startswith(
        "the model has 1,000 classes, and the source"
    )
    text = path.read_text()
    assert f"mine has an accuracy on the source: {100 * correct / 160:.1f} % of 160" in text
    assert "published 50.0 %" in text
