"""The stages evaluate and rank on tiny `.beton` files: common classes, precision, progress, folds."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from harness.cli.main import cli
from harness.modeling import classifier as models
from harness.modeling.precision import autocast, choose
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.evaluate import run as evaluate
from harness.stages.pretrain import run as pretrain
from harness.stages.rank import run as rank
from harness.train.loader_plans import held_out_part, without_held_out
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import (
    as_result,
    context_of,
    pretrain_context,
)
from writers.beton.store import open_beton
from writers.errors import UserError


def save_biased(root: Path, name: str, bias: list[float]) -> Path:
    """Save the trained model with `bias` (one number per class) added to its logits.

    Returns the folder root/name.
    """
    loaded, about = models.load(root / "model" / pretrain.MODEL_FILE)
    with torch.no_grad():
        loaded.head.bias.add_(torch.tensor(bias))
    models.save(root / name / pretrain.MODEL_FILE, loaded, about)
    return root / name


def check_predictions(root: Path, metrics: dict, source: Result) -> None:
    """Check that the file of predictions yields the scores, and has the beton's sample ids."""
    found = np.load(root / "evaluate" / metrics["predictions"])
    beton = open_beton(root / "data" / source.metrics["splits"]["val"]["path"])
    assert found["sample"].tolist() == beton.ids.tolist()
    assert found["label"].tolist() == beton.rows["label"].tolist()
    common = np.isin(found["label"], (0, 2))
    for name in ("clean", "adversarial"):
        assert found[f"{name}_own_correct"].sum() == metrics[name]["own"]["num_correct"]
        assert (
            found[f"{name}_own_correct"][common].sum()
            == metrics[name]["common_unmasked"]["num_correct"]
        )
        assert (
            found[f"{name}_common_masked_correct"].sum()
            == metrics[name]["common_masked"]["num_correct"]
        )
        assert set(found[f"{name}_common_masked_predicted"][common]) <= {0, 2}
        assert set(found[f"{name}_common_masked_predicted"][~common]) == {-1}
        assert (
            found[f"{name}_own_correct"] == (found[f"{name}_own_predicted"] == found["label"])
        ).all()
        by_class = [
            int(found[f"{name}_own_correct"][found["label"] == label].sum()) for label in range(3)
        ]
        assert metrics["per_class"][name]["own"] == by_class
    assert metrics["per_class"]["num_images"] == [8, 8, 8]
    assert metrics["per_class"]["classes"] == source.metrics["classes"]


def test_evaluation_counts_common_classes_masked_and_unmasked(
    root: Path, model: Result, source: Result
):
    fewer = source.model_copy(
        update={"metrics": {**source.metrics, "classes": ["color2", "color0"]}}
    )
    config = {
        "settings": {"batch_size": 7},
        "eps": 0.5,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "float32",
        "flip_tta": False,
    }
    needs = {"model": model, "data": source, "common_0": source, "common_1": fewer}
    context = context_of(root, "evaluate", config, needs)
    # Some images of color0 and no image of color2 become color1.
    context.need_folders["model"] = save_biased(root, "towards color1", [0, 9.3, 0])
    metrics = evaluate.run(context).metrics
    assert metrics["common_classes"] == ["color0", "color2"]
    for scores in (metrics["clean"], metrics["adversarial"]):
        assert (scores["own"]["num_images"], scores["common_masked"]["num_images"]) == (24, 16)
    correct = {view: scores["num_correct"] for view, scores in metrics["clean"].items()}
    assert 8 < correct["common_unmasked"] < correct["common_masked"] == 16
    assert correct["own"] == correct["common_unmasked"] + 8
    assert metrics["adversarial"]["own"]["loss"] > metrics["clean"]["own"]["loss"]
    assert metrics["attack"] == {
        "norm": "l2",
        "eps": 0.5,
        "steps": 20,
        "step_size": 0.5 * 2.5 / 20,
        "resolution": 24,
        "restarts": 1,
        "zero_gradients": 0,
        "logits": "scored",
        "compiled": "eager",
    }
    check_predictions(root, metrics, source)
    without_attack = context_of(root, "clean", {**config, "eps": 0.0}, needs)
    without_attack.need_folders["model"] = context.need_folders["model"]
    clean = evaluate.run(without_attack).metrics
    assert clean["adversarial"] is None and clean["attack"] is None
    assert clean["clean"] == metrics["clean"]


def test_evaluation_and_ranking_compute_in_the_precision_of_the_recipe(
    root: Path, model: Result, source: Result, monkeypatch: pytest.MonkeyPatch
):
    """The dtype of the head's logits shows the precision."""
    seen: list[torch.dtype] = []
    load = models.load

    def watched(path: Path):
        loaded, about = load(path)
        loaded.head.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
        return loaded, about

    monkeypatch.setattr(models, "load", watched)
    view = {"resolution": 24, "eval_crop": 1.0}
    runs = {
        evaluate.run: {"settings": {"batch_size": 7}, "eps": 0.5, "flip_tta": False, **view},
        rank.run: {"split": "val", "batch_size": 7, **view},
    }
    for run, config in runs.items():
        for precision, computed, dtype in (
            ("auto", "float32", torch.float32),
            ("bf16", "bf16", torch.bfloat16),
        ):
            seen.clear()
            name = f"{run.__module__}-{precision}"
            context = context_of(
                root, name, {**config, "precision": precision}, {"model": model, "data": source}
            )
            assert run(context).metrics["precision"] == computed
            assert set(seen) == {dtype}


@pytest.mark.parametrize(
    ("run", "config", "num_polls", "note"),
    [
        (
            evaluate.run,
            {"settings": {"batch_size": 7}, "eps": 0.5, "flip_tta": False},
            5,
            "adversarial",
        ),
        (rank.run, {"split": "val", "batch_size": 7}, 1, "val"),
    ],
)
def test_a_pass_over_images_reports_progress_and_stops_after_a_batch(
    root: Path,
    model: Result,
    source: Result,
    monkeypatch: pytest.MonkeyPatch,
    run,
    config,
    num_polls,
    note,
):
    monkeypatch.setattr("harness.stages._progress.REPORT_EVERY_S", -1.0)
    polls = itertools.count(1)

    def stop_requested() -> bool:
        return next(polls) > num_polls

    context = context_of(
        root,
        f"stopped-{note}",
        {**config, "resolution": 24, "eval_crop": 1.0, "precision": "auto"},
        {"model": model, "data": source},
        stop_requested=stop_requested,
    )
    with pytest.raises(Stopped):
        run(context)
    progress = json.loads((context.folder / "progress.json").read_text())
    assert next(polls) == num_polls + 2, "no batch may follow the stop request"
    assert (progress["done"], progress["total"], progress["note"]) == (7, 24, note)


def test_each_fold_of_train_is_ranked_by_a_model_that_has_not_seen_it(root: Path, source: Result):
    """The accuracies equal those of a loop over both folds.

    `harness subset rank` with both checkpoints gives the same result. Two models that trained on the
    same fold are refused, and so is a model that trained on both folds.
    """
    beton = root / "data" / source.metrics["splits"]["train"]["path"]
    needs, right, seen = {"data": source}, np.zeros(3), []
    for number in range(2):
        fold = {"fold": number, "folds": 2, "seed": 1000}
        context = pretrain_context(root, source, f"model_{number}", settings={"epochs": 2})
        context.config["held_out"] = fold
        needs[f"model_{number}"] = as_result("pretrain", pretrain.run(context).metrics)
        assert needs[f"model_{number}"].metrics["num_train_images"] == 30
        inside, outside = (
            select(LoaderPlan(beton, 60, 24), fold).indices
            for select in (held_out_part, without_held_out)
        )
        assert sorted([*inside, *outside]) == list(range(60))
        seen.append(set(inside))
        classifier, about = models.load(root / f"model_{number}" / pretrain.MODEL_FILE)
        assert about["held_out"] == fold
        plan = LoaderPlan(beton, 5, 24, center_fraction=1.0, indices=sorted(seen[-1]))
        classifier.eval()
        # Uses the stage's batch size and precision. Other rounding could change a prediction.
        with (
            open_loader(plan) as loader,
            loader.epoch(0) as batches,
            torch.no_grad(),
            autocast(choose("auto", "cpu"), "cpu"),
        ):
            for images, labels in batches:
                correct = (classifier(images).argmax(1) == labels).numpy()
                right += np.bincount(labels.numpy(), correct, minlength=3)
    assert not seen[0] & seen[1]

    config = {
        "split": "train",
        "batch_size": 5,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "auto",
    }
    metrics = rank.run(context_of(root, "rank_folds", config, needs)).metrics
    assert [metrics["accuracy"][name] for name in source.metrics["classes"]] == pytest.approx(
        right / 20
    )
    assert set(metrics["num_images"].values()) == {20} and metrics["split"] == "train"

    command = [
        "subset",
        "rank",
        "--data",
        str(beton),
        "--split",
        "train",
        "--eval-crop",
        "1",
        "--json",
    ]
    both = [
        part
        for number in range(2)
        for part in ("--checkpoint", str(root / f"model_{number}" / pretrain.MODEL_FILE))
    ]
    output = json.loads(CliRunner().invoke(cli, [*command, *both], catch_exceptions=False).stdout)
    assert output["accuracy"] == metrics["accuracy"] and output["classes"] == metrics["classes"]
    with pytest.raises(UserError, match="would rank images that an earlier"):
        cli.main([*command, *both[:2], *both[:2]], standalone_mode=False)

    pretrain.run(pretrain_context(root, source, "model_all"))
    whole = context_of(root, "rank_seen", config, {"model_all": needs["model_0"], "data": source})
    with pytest.raises(UserError, match="trained on all of train"):
        rank.run(whole)


def test_ranking_orders_classes_by_accuracy_and_then_by_probability(
    root: Path, model: Result, source: Result
):
    """The model never predicts color1, and is less sure of color2 than of color0."""
    config = {
        "split": "val",
        "batch_size": 5,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "auto",
    }
    context = context_of(root, "rank", config, {"model": model, "data": source})
    context.need_folders["model"] = save_biased(root, "biased", [0, -100, -2])
    metrics = rank.run(context).metrics
    assert metrics["accuracy"] == {"color0": 1.0, "color1": 0.0, "color2": 1.0}
    assert metrics["classes"] == ["color1", "color2", "color0"]
    assert set(metrics["num_images"].values()) == {8}
    assert metrics["tie_break"] == "mean probability given to the true class, then class name"
