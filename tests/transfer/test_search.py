"""The hyper-parameter search: points equal those trained alone, halving, crops, resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import grid
from harness.config.methods import settings_model
from harness.config.transfer import TransferSettings
from harness.modeling import classifier
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.pretrain import run as pretrain
from harness.stages.transfer import run as transfer
from harness.train.loader_plans import sample_per_class_of_beton
from harness.transfer import search
from harness.transfer.search_record import describe_selection
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from tests.helpers.tiny_stages import (
    TRANSFER,
    as_result,
    context_of,
    pretrain_context,
    write_colors,
)
from writers.beton.concat import concat_splits
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.errors import UserError

SHORT = {key: value for key, value in TRANSFER.items() if key not in ("epochs", "lrs")}


@pytest.fixture(scope="module")
def target(root: Path) -> Result:
    return write_colors(
        root / "data", "target", colors=4, splits={"train": 12, "val": 6, "test": 6}
    )


@pytest.fixture(scope="module")
def model(root: Path) -> Result:
    source = write_colors(root / "data", "source", splits={"train": 8, "val": 2})
    return as_result(
        "pretrain", pretrain.run(pretrain_context(root, source, settings={"epochs": 1})).metrics
    )


@pytest.fixture
def with_dropout(monkeypatch):
    """Add dropout before the head of loaded models, so that trials draw random numbers."""
    load = classifier.load

    def loaded(path):
        model, about = load(path)
        model.backbone.append(torch.nn.Dropout(0.5))
        return model, about

    monkeypatch.setattr(classifier, "load", loaded)


def run(
    root: Path,
    name: str,
    method: str,
    target: Result,
    model: Result,
    settings: dict[str, Any],
    **more: Any,
):
    """Run a transfer stage in root/NAME."""
    config = {"method": method, "seed": 0, "metric": "top1", "settings": {**SHORT, **settings}}
    return transfer.run(context_of(root, name, config, {"model": model, "data": target}, **more))


def test_every_point_equals_the_point_trained_alone(root, target, model, with_dropout):
    overrides = {
        "epochs": 1,
        "lrs": [0.1, 0.02],
        "grid": {"decay_ratio": [0.0, 1e-3]},
        "optimizer": {"schedule": "cosine"},
    }
    for method in ("fixed", "full"):
        metrics = run(root, f"grid-{method}", method, target, model, overrides).metrics
        assert [(entry["lr"], entry["decay_ratio"]) for entry in metrics["grid"]] == [
            (0.1, 0),
            (0.1, 1e-3),
            (0.02, 0),
            (0.02, 1e-3),
        ]
        assert metrics["num_configs"] == 4
        assert metrics["selected_on"] == "val"
        assert metrics["policy"] == "full"
        for number, entry in enumerate(metrics["grid"]):
            alone = run(
                root,
                f"alone-{method}-{number}",
                method,
                target,
                model,
                {
                    "epochs": 1,
                    "lrs": [entry["lr"]],
                    "optimizer": {
                        "schedule": "cosine",
                        "weight_decay": entry["decay_ratio"] / entry["lr"],
                    },
                },
            ).metrics
            assert alone["val"] == entry["val"]
            if {axis: entry[axis] for axis in metrics["chosen"]} == metrics["chosen"]:
                assert alone["test"] == metrics["test"]
        best = max(entry["val"]["top1"] for entry in metrics["grid"])
        assert metrics["val"]["top1"] == best and metrics["chosen"]["lr"] == metrics["lr"]


def test_a_grid_of_lengths_trains_each_point_for_its_length(root, target, model):
    overrides = {
        "lrs": [0.1],
        "grid": {"steps": [2, 5]},
        "optimizer": {"schedule": "step", "step_at": [0.3, 0.6, 0.9]},
    }
    for method in ("fixed", "full"):
        outcome = run(root, f"lengths-{method}", method, target, model, overrides)
        assert outcome.timing["num_steps"] == 7
        assert [entry["steps"] for entry in outcome.metrics["grid"]] == [2, 5]
        assert outcome.metrics["num_epochs"] is None
        assert outcome.metrics["num_steps"] == outcome.metrics["chosen"]["steps"]


def test_halving_selects_among_fully_trained_points_at_lower_cost(root, target, model):
    lrs = [0.2, 0.1, 0.05, 0.02, 0.01, 1e-4, 1e-5, 1e-6, 1e-7]
    overrides = {
        "steps": 9,
        "lrs": lrs,
        "policy": {"halving": {"factor": 3, "rungs": 3}},
        "optimizer": {"schedule": "cosine"},
    }
    outcome = run(root, "halving", "full", target, model, overrides)
    metrics = outcome.metrics
    assert metrics["policy"] == {"halving": {"factor": 3, "rungs": 3}}
    assert metrics["num_configs"] == 9
    assert outcome.timing["num_steps"] == 9 * 1 + 3 * 3 + 1 * 9 < 9 * 9
    shares = [entry["share"] for entry in metrics["grid"]]
    assert sorted(shares) == pytest.approx([1 / 9] * 6 + [1 / 3] * 2 + [1])
    last = metrics["grid"][shares.index(1.0)]
    assert metrics["lr"] == last["lr"] and metrics["val"] == last["val"]
    alone = run(
        root,
        "halving-alone",
        "full",
        target,
        model,
        {**overrides, "lrs": [last["lr"]], "policy": "full"},
    ).metrics
    assert alone["test"] == metrics["test"], (
        "the last rung must train from the start, for the whole length"
    )
    first = [entry for entry, share in zip(metrics["grid"], shares, strict=True) if share < 1 / 2]
    assert all(entry["val"] is not None for entry in first)


def test_a_reduced_grid_is_a_seeded_sample():
    settings = settings_model("l2sp").model_validate(
        {"grid": {"lr": [0.1, 0.2, 0.3], "alpha": [1, 2, 3, 4]}, "policy": {"reduced": 5}}
    )
    drawn = grid.trials(settings)
    whole = grid.trials(settings.model_copy(update={"policy": "full"}))
    assert len(drawn) == 5 and len(whole) == 12
    assert [trial.point for trial in drawn] == [whole[trial.number].point for trial in drawn]
    assert [trial.number for trial in grid.trials(settings)] == sorted(
        trial.number for trial in drawn
    )
    other = settings_model("l2sp").model_validate(
        {**settings.model_dump(exclude_unset=True), "policy": {"reduced": 5, "seed": 1}}
    )
    assert [trial.number for trial in grid.trials(other)] != [trial.number for trial in drawn]
    assert describe_selection(other)["policy"] == {"reduced": 5, "seed": 1}


def test_crops_are_chosen_on_val_without_training_again(root, target, model):
    overrides = {
        "steps": 4,
        "lrs": [0.05, 0.01],
        "grid": {"eval_crop": [1.0, 0.5]},
        "optimizer": {"schedule": "cosine"},
    }
    short = {key: value for key, value in SHORT.items() if key != "eval_crop"}
    config = {"method": "full", "seed": 0, "metric": "top1", "settings": {**short, **overrides}}
    outcome = transfer.run(context_of(root, "crops", config, {"model": model, "data": target}))
    metrics = outcome.metrics
    assert outcome.timing["num_steps"] == 8 and metrics["num_configs"] == 4
    assert [(entry["lr"], entry["eval_crop"]) for entry in metrics["grid"]] == [
        (lr, crop) for lr in (0.05, 0.01) for crop in (1.0, 0.5)
    ]
    for crop in (1.0, 0.5):
        config["settings"] = {**short, **overrides, "grid": {}, "eval_crop": crop}
        alone = transfer.run(
            context_of(root, f"crop{crop}", config, {"model": model, "data": target})
        ).metrics
        of_crop = [entry["val"] for entry in metrics["grid"] if entry["eval_crop"] == crop]
        assert [entry["val"] for entry in alone["grid"]] == of_crop
        if crop == metrics["chosen"]["eval_crop"]:
            assert alone["test"] == metrics["test"]


@pytest.mark.parametrize(
    ("method", "stop_after", "keep_all"),
    [
        ("full", 3, True),
        ("full", 14, True),
        ("full", 7, False),
        ("fixed", 2, True),
        ("fixed", 6, False),
    ],
)
def test_a_stopped_search_resumes_exactly(
    root, target, model, with_dropout, monkeypatch, method, stop_after, keep_all
):
    monkeypatch.setattr(search, "FINAL_CHECKPOINT_S", 0.0 if keep_all else 30.0)
    overrides = {
        "steps": 5,
        "lrs": [0.1, 0.05, 0.01],
        "grid": {"weight_decay": [0.0, 1e-3]},
        "optimizer": {"schedule": "cosine"},
        "policy": {"halving": {"factor": 2, "rungs": 2}},
    }
    whole = run(root, f"whole-{method}-{keep_all}-{stop_after}", method, target, model, overrides)
    calls = iter(range(10**6))
    name = f"stopped-{method}-{keep_all}-{stop_after}"
    with pytest.raises(Stopped):
        run(
            root,
            name,
            method,
            target,
            model,
            overrides,
            stop_requested=lambda: next(calls) >= stop_after,
        )
    resumed = run(root, name, method, target, model, overrides)
    assert resumed.metrics == whole.metrics
    assert resumed.timing["num_steps"] == whole.timing["num_steps"]
    assert not (root / name / "checkpoints").exists()


def test_samples_per_class_are_nested_and_equal_in_all_files(root, target):
    file = root / "data" / target.metrics["splits"]["train"]["path"]
    beton = open_beton(file)
    drawn = {number: sample_per_class_of_beton(file, number, seed=3) for number in (1, 4, 12, 50)}
    for number, indices in drawn.items():
        assert np.bincount(beton.labels[indices]).tolist() == [min(number, 12)] * 4
        assert (np.diff(indices) > 0).all()
    assert set(drawn[1]) < set(drawn[4]) < set(drawn[12]) == set(drawn[50]) == set(range(48))
    assert set(sample_per_class_of_beton(file, 4, seed=4)) != set(drawn[4])
    samples = open_samples(LoaderPlan(file, 8, 24, indices=drawn[4]))
    assert sorted(samples.ids.tolist()) == sorted(beton.ids[drawn[4]].tolist())


def test_a_stage_with_per_class_trains_on_no_other_images(root, target, model):
    outcome = run(
        root,
        "few",
        "full",
        target,
        model,
        {"epochs": 2, "lrs": [0.05], "per_class": 3, "batch_size": 6},
    )
    assert outcome.metrics["num_train_images"] == 12 and outcome.timing["num_steps"] == 4
    assert outcome.metrics["val"]["num_images"] == 24, "val must keep all images"


def test_a_val_split_with_images_of_test_is_refused(root, target, model):
    same = target.model_copy(
        update={
            "metrics": {
                **target.metrics,
                "splits": {**target.metrics["splits"], "val": target.metrics["splits"]["test"]},
            }
        }
    )
    with pytest.raises(UserError, match="24 of the 24 images of val are images of test, too"):
        run(root, "same", "full", same, model, {"epochs": 1, "lrs": [0.1]})
    with pytest.raises(ValueError, match="selected_on"):
        TransferSettings.model_validate({"selected_on": "test"})


def test_a_refit_trains_the_chosen_point_on_train_and_val(root, target, model):
    overrides = {
        "epochs": 2,
        "lrs": [0.05, 1e-6],
        "refit": True,
        "optimizer": {"schedule": "cosine"},
    }
    outcome = run(root, "refit", "full", target, model, overrides)
    metrics = outcome.metrics
    plain = run(root, "no-refit", "full", target, model, {**overrides, "refit": False}).metrics
    assert metrics["refit"]
    assert (metrics["num_train_images"], metrics["num_fit_images"]) == (
        48,
        48 + 24,
    )
    assert {name: metrics[name] for name in ("val", "grid", "chosen", "num_configs")} == {
        name: plain[name] for name in ("val", "grid", "chosen", "num_configs")
    }, "the choice must not depend on the refit"
    assert metrics["test"] != plain["test"] and outcome.timing["num_steps"] == 2 * 2 * 3 + 2 * 5
    assert sorted(path.name for path in (root / "refit").iterdir()) == [
        "predictions.npz",
        "progress.json",
    ]
    splits = target.metrics["splits"]
    train, val = (open_beton(root / "data" / splits[name]["path"]) for name in ("train", "val"))
    concat_splits([train.path, val.path], root / "data" / "target" / "both.beton", split="train")
    joined = open_beton(root / "data" / "target" / "both.beton")
    assert verify(joined.path) == []
    assert joined.labels.tolist() == [
        *train.labels.tolist(),
        *val.labels.tolist(),
    ]
    by_hand = target.model_copy(
        update={
            "metrics": {
                **target.metrics,
                "splits": {**splits, "train": {"path": "target/both.beton", "num_samples": 72}},
            }
        }
    )
    whole = run(root, "refit-whole", "full", target, model, {**overrides, "lrs": [0.05]}).metrics
    alone = run(
        root,
        "by-hand",
        "full",
        by_hand,
        model,
        {**overrides, "refit": False, "lrs": [0.05]},
    ).metrics
    assert whole["test"] == alone["test"]


def test_a_refit_with_per_class_adds_no_image_of_val(root, target, model):
    overrides = {"epochs": 1, "lrs": [0.05], "per_class": 5, "refit": True}
    metrics = run(root, "refit-few", "full", target, model, overrides).metrics
    assert metrics["refit"]
    assert metrics["num_train_images"] == metrics["num_fit_images"] == 20


def test_a_stopped_refit_resumes_exactly(root, target, model):
    overrides = {
        "steps": 3,
        "lrs": [0.05, 0.01],
        "refit": True,
        "optimizer": {"schedule": "cosine"},
    }
    calls = iter(range(10**6))
    with pytest.raises(Stopped):
        run(
            root,
            "refit-stopped",
            "full",
            target,
            model,
            overrides,
            stop_requested=lambda: next(calls) >= 9,
        )
    resumed = run(root, "refit-stopped", "full", target, model, overrides)
    assert resumed.metrics == run(root, "refit-through", "full", target, model, overrides).metrics
