"""The stages select and view on tiny `.beton` files, compared with plain loops."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.modeling import classifier
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.evaluate import run as evaluate
from harness.stages.features import run as features
from harness.stages.pretrain import run as pretrain
from harness.stages.select import run as select
from harness.stages.view import run as view
from harness.train.loader_plans import in_view
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import (
    as_result,
    context_of,
    pretrain_context,
    without_times,
    write_colors,
)
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.subset.formulas import clusters
from writers.subset.spec import everything

FEATURES: dict[str, Any] = {
    "resolution": 24,
    "eval_crop": 1.0,
    "batch_size": 16,
    "precision": "float32",
}
VIEW = {"batch_size": 16, "resolution": 24, "eval_crop": 1.0, "precision": "float32"}


@pytest.fixture(scope="module")
def source(root: Path) -> Result:
    return write_colors(root / "data", splits={"train": 20, "val": 8})


def early(root: Path, source: Result, name: str, seed: int, **more: Any) -> Result:
    """Run a pretraining for the first three of its four epochs; it saves the model after each."""
    context = pretrain_context(root, source, name, seed=seed, settings={"epochs": 4}, **more)
    context.config["first_epochs"] = 3
    return as_result("pretrain", pretrain.run(context).metrics)


@pytest.fixture(scope="module")
def trainings(root: Path, source: Result) -> dict[str, Result]:
    return {f"model_{seed}": early(root, source, f"model_{seed}", seed) for seed in (1, 2)}


def select_context(root: Path, name: str, config: dict[str, Any], needs: dict[str, Result]):
    return context_of(root, name, {"targets": [], **config}, needs)


def probabilities(root: Path, file: Path, resolution: int = 24) -> tuple[np.ndarray, ...]:
    """Compute ids [N], labels [N] and probabilities [N, K] by a plain loop over the training images."""
    model, _ = classifier.load(file)
    model.eval()
    plan = LoaderPlan(root / "data" / "colors" / "train.beton", 13, resolution, center_fraction=1.0)
    with open_loader(plan) as loader, torch.no_grad(), loader.epoch(0) as batches:
        labels, probs = zip(
            *((labels.clone(), model(images).softmax(1)) for images, labels in batches), strict=True
        )
        return loader.samples.ids, torch.cat(labels).numpy(), torch.cat(probs).numpy()


def test_an_early_training_equals_the_first_epochs_of_the_whole_one(
    root: Path, source: Result, trainings: dict[str, Result]
):
    metrics = trainings["model_1"].metrics
    assert metrics["epoch_models"] == ["epoch_1.pt", "epoch_2.pt", "epoch_3.pt"]
    whole = pretrain.run(pretrain_context(root, source, "whole", seed=1, settings={"epochs": 4}))
    assert [epoch["train_loss"] for epoch in metrics["epochs"]] == [
        epoch["train_loss"] for epoch in whole.metrics["epochs"][:3]
    ]
    last, _ = classifier.load(root / "model_1" / "epoch_3.pt")
    saved, _ = classifier.load(root / "model_1" / pretrain.MODEL_FILE)
    assert all(
        torch.equal(value, saved.state_dict()[key]) for key, value in last.state_dict().items()
    )


def test_an_early_training_resumes_with_the_same_weights_of_each_epoch(
    root: Path, source: Result, trainings: dict[str, Result]
):
    calls = iter(range(10**6))
    with pytest.raises(Stopped):
        early(root, source, "again", 1, stop_requested=lambda: next(calls) >= 6)
    again = early(root, source, "again", 1)
    assert again.metrics["epoch_models"] == trainings["model_1"].metrics["epoch_models"]
    for name in again.metrics["epoch_models"]:
        one, other = (
            classifier.load(root / folder / name)[0].state_dict() for folder in ("again", "model_1")
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_el2n_is_the_mean_error_of_the_last_epochs(
    root: Path, source: Result, trainings: dict[str, Result]
):
    context = select_context(
        root, "el2n", {"method": "el2n", **VIEW}, {"data": source, **trainings}
    )
    context.need_folders["data"] = root / "data"
    metrics = select.run(context).metrics
    assert metrics["classes"] is None and metrics["num_scored"] == 60
    assert metrics["num_models"] == 2
    with np.load(root / "el2n" / "scores.npz") as scores:
        ids, values = scores["ids"], scores["values"]
    slow = []
    for seed in (1, 2):
        found, labels, probs = probabilities(root, root / f"model_{seed}" / "epoch_3.pt")
        assert (found == ids).all()
        slow.append(np.linalg.norm(probs - np.eye(3)[labels], axis=1))
    np.testing.assert_allclose(values, np.mean(slow, axis=0), atol=1e-5)


def test_forgetting_counts_events_between_epochs(
    root: Path, source: Result, trainings: dict[str, Result]
):
    context = select_context(
        root, "forgetting", {"method": "forgetting", **VIEW}, {"data": source, **trainings}
    )
    select.run(context)
    with np.load(root / "forgetting" / "scores.npz") as scores:
        values = scores["values"]
    slow = np.zeros(60)
    for seed in (1, 2):
        evaluations = []
        for epoch in (1, 2, 3):
            _, labels, probs = probabilities(root, root / f"model_{seed}" / f"epoch_{epoch}.pt")
            evaluations.append(probs.argmax(1) == labels)
        for image in range(60):
            history = [correct[image] for correct in evaluations]
            events = sum(history[i] and not history[i + 1] for i in range(2))
            slow[image] += events if any(history) else 3
    assert values.tolist() == (slow / 2).tolist()


@pytest.fixture(scope="module")
def feature_results(root: Path, source: Result, target: Result, trainings) -> dict[str, Result]:
    """Compute features of source and target by the first model of `trainings`; return both results."""
    found = {}
    for role, data, splits in (
        ("source", source, ["train"]),
        ("target_0", target, ["train", "val"]),
    ):
        more = {"probs": False} if role == "source" else {}
        context = context_of(
            root,
            role,
            {**FEATURES, "splits": splits, **more},
            {"model": trainings["model_1"], "data": data},
        )
        context.need_folders["model"] = root / "model_1"
        found[role] = as_result("features", features.run(context).metrics)
    return found


def test_label_mapping_counts_train_and_val(
    root: Path, trainings, feature_results: dict[str, Result]
):
    context = select_context(
        root,
        "label",
        {"method": "label_mapping", "targets": ["other"]},
        {"model": trainings["model_1"], "target_0": feature_results["target_0"]},
    )
    context.need_folders["model"] = root / "model_1"
    metrics = select.run(context).metrics
    probs = np.concatenate(
        [np.load(root / "target_0" / f"{split}.npz")["probs"] for split in ("train", "val")]
    )
    assert len(probs) == 4 * (20 + 8)
    shares = np.bincount(probs.argmax(1), minlength=3) / len(probs)
    found = metrics["classes"]
    assert [found[f"color{c}"]["score"] for c in range(3)] == shares.tolist()
    assert found["color0"]["low_95"] is None
    assert metrics["seen_splits"] == ["train", "val"]


def test_feature_mapping_and_prototypes_cluster_the_source(
    root: Path, feature_results: dict[str, Result]
):
    config = {"clusters": 5, "seed": 3, "targets": ["other"]}
    needs = {"source": feature_results["source"], "target_0": feature_results["target_0"]}
    select.run(select_context(root, "fm", {"method": "feature_mapping", **config}, needs))
    select.run(select_context(root, "proto", {"method": "prototypes", **config}, needs))
    source = np.load(root / "source" / "train.npz")
    assert "probs" not in source
    found = clusters.cluster(source["features"], 5, 3)
    mapped, proto = (np.load(root / name / "scores.npz") for name in ("fm", "proto"))
    assert (mapped["clusters"] == found.labels).all() and (mapped["ids"] == source["ids"]).all()
    target = np.concatenate(
        [np.load(root / "target_0" / f"{split}.npz")["features"] for split in ("train", "val")]
    )
    unit = target / np.linalg.norm(target, axis=1, keepdims=True)
    near = ((unit[:, None] - found.centers[None]) ** 2).sum(2).argmin(1)
    share = np.bincount(near, minlength=5) / len(near)
    np.testing.assert_allclose(mapped["values"], share[found.labels])
    unit = source["features"] / np.linalg.norm(source["features"], axis=1, keepdims=True)
    centers = found.centers / np.linalg.norm(found.centers, axis=1, keepdims=True)
    cosines = (unit * centers[found.labels]).sum(axis=1)
    np.testing.assert_allclose(proto["values"], 1 - cosines, atol=1e-6)


def test_influence_reads_val_and_not_test(root: Path, source: Result):
    classes = source.metrics["classes"]
    kept = [[0], [1], [2], [0, 1], [1, 2], [0, 2]]
    val, needs = [0.5, 0.7, 0.2, 0.9, 0.4, 0.6], {"data": source}
    for number, labels in enumerate(kept):
        needs[f"view_{number}"] = as_result("view", {"classes": [classes[c] for c in labels]})
        needs[f"transfer_{number}_0"] = as_result(
            "transfer",
            {"metric": "top1", "val": {"top1": val[number]}, "test": {"top1": float("nan")}},
        )
    config = {"method": "influence", "targets": ["other"], "num_models": 6, "draws": 50, "seed": 0}
    found = select.run(select_context(root, "influence", config, needs)).metrics["classes"]
    for c, name in enumerate(classes):
        having = [accuracy for accuracy, labels in zip(val, kept, strict=True) if c in labels]
        others = [accuracy for accuracy, labels in zip(val, kept, strict=True) if c not in labels]
        assert found[name]["score"] == pytest.approx(np.mean(having) - np.mean(others))


def test_a_model_trains_on_the_images_and_labels_of_a_view(root: Path, source: Result):
    """The loader reads the images of the view and renumbers their labels; training repeats."""
    config = {
        "subset": {"steps": [{"classes": ["color0", "color2"]}, {"per_class": {"images": 9}}]}
    }
    context = context_of(root, "view", config, {"data": source})
    found = as_result("view", view.run(context).metrics)
    assert found.metrics["classes"] == ["color0", "color2"]
    assert found.metrics["splits"]["train"]["num_samples"] == 18
    assert found.metrics["splits"]["val"]["num_samples"] == 16
    trained = pretrain_context(root, found, "of view")
    trained.need_folders["data"] = root / "view"
    outcome = pretrain.run(trained)
    assert outcome.metrics["num_train_images"] == 18 and outcome.metrics["num_classes"] == 2
    beton = open_beton(root / "data" / "colors" / "train.beton")
    plan = in_view(LoaderPlan(beton.path, 6, 24), trained, "data", "train")
    with open_loader(plan) as loader:
        assert sorted(np.unique(loader.samples.labels)) == [0, 1]
        old = beton.labels[loader.samples.indices]
        assert set(zip(old.tolist(), loader.samples.labels.tolist(), strict=True)) == {
            (0, 0),
            (2, 1),
        }
    repeated = pretrain_context(root, found, "of view again")
    repeated.need_folders["data"] = root / "view"
    assert without_times(pretrain.run(repeated)) == without_times(outcome)


def test_a_view_names_its_classes_without_images(root: Path):
    whole = write_colors(root / "data", "gaps", splits={"train": 4, "val": 2})
    shutil.rmtree(root / "data" / "gaps-images" / "val" / "color1")
    images = open_dataset("folder", root / "data" / "gaps-images", SplitSettings(val=0))
    val = root / "data" / "gaps" / "val.beton"
    write_split(images, "val", everything(images.classes), Encoding(format="raw"), val)
    absent = {}
    for number, kept in enumerate((["color0", "color1"], ["color0", "color2"])):
        config = {"subset": {"steps": [{"classes": kept}]}}
        context = context_of(root, f"gaps{number}", config, {"data": whole})
        splits = view.run(context).metrics["splits"]
        absent[number] = [splits[split].get("classes_without_images") for split in splits]
    assert absent == {0: [None, ["color1"]], 1: [None, None]}


def test_a_view_is_evaluated_on_its_own_classes(root: Path, source: Result):
    config = {"subset": {"steps": [{"classes": ["color1", "color2"]}]}}
    found = as_result("view", view.run(context_of(root, "two", config, {"data": source})).metrics)
    trained = pretrain_context(root, found, "of two")
    trained.need_folders["data"] = root / "two"
    model = as_result("pretrain", pretrain.run(trained).metrics)
    context = context_of(
        root,
        "evaluated",
        {"settings": {}, "eps": 0.0, "flip_tta": False, **VIEW},
        {"model": model, "data": found, "common_0": found},
    )
    context.need_folders.update(model=root / "of two", data=root / "two")
    metrics = evaluate.run(context).metrics
    assert metrics["per_class"]["classes"] == ["color1", "color2"]
    assert metrics["per_class"]["num_images"] == [8, 8]
    assert metrics["clean"]["own"]["top1"] == model.metrics["val"]["top1"]


def test_a_damaged_view_is_refused(root: Path, source: Result):
    config = {"subset": {"steps": [{"classes": ["color1", "color2"]}]}}
    found = as_result("view", view.run(context_of(root, "bad", config, {"data": source})).metrics)
    (root / "bad" / "train.npz").write_bytes(b"PK")
    trained = pretrain_context(root, found, "of bad")
    trained.need_folders["data"] = root / "bad"
    with pytest.raises(UserError, match="not a complete file of positions"):
        pretrain.run(trained)
