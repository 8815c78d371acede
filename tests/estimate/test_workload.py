"""The predicted workload of a stage (images per kind of step) equals the work that it does."""

from pathlib import Path
from typing import Any

import pytest

from harness.config.methods import settings_model
from harness.estimate.workload import Workloads
from harness.matrix.stage import Stage
from harness.runner import result
from harness.runner.context import Outcome
from harness.runner.result import Result
from harness.stages.pretrain import run as pretrain
from harness.stages.transfer import run as transfer
from harness.train import evaluate
from tests.helpers.tiny_stages import (
    PRETRAIN,
    TRANSFER,
    as_result,
    context_of,
    pretrain_context,
    write_colors,
)

COLORS, TRAIN, VAL, TEST = 4, 16, 8, 4
SHORT = {key: value for key, value in TRANSFER.items() if key not in ("epochs", "lrs")} | {
    "batch_size": 16
}


@pytest.fixture(scope="module")
def data(root: Path) -> Result:
    return write_colors(
        root / "data", "target", COLORS, splits={"train": TRAIN, "val": VAL, "test": TEST}
    )


@pytest.fixture(scope="module")
def model(root: Path, data: Result) -> Result:
    return as_result(
        "pretrain", pretrain.run(pretrain_context(root, data, settings={"epochs": 1})).metrics
    )


@pytest.fixture
def forward_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the size of each batch of a forward pass without training."""
    seen: list[int] = []
    original = evaluate._logits_of_batches

    def counted(*arguments: Any, **more: Any) -> Any:
        for logits, labels in original(*arguments, **more):
            seen.append(len(labels))
            yield logits, labels

    monkeypatch.setattr(evaluate, "_logits_of_batches", counted)
    return seen


def predicted(root: Path, stage: Stage, data: Result) -> dict[str, float]:
    """Return kind of step -> predicted number of images.

    Args:
        root: runs folder, to which `data` is saved.
        stage: the stage to predict.
        data: result of the write stage that it needs.
    """
    write = stage.needs["data"]
    result.save(data.model_copy(update={"key": write.key}), write.folder(root))
    num_images: dict[str, float] = {}
    for part in Workloads(root).of(stage) or ():
        num_images[part.step["step"]] = num_images.get(part.step["step"], 0.0) + part.num_images
    return num_images


def trained(outcome: Outcome) -> float:
    return float(outcome.timing["img_per_s"] * outcome.timing["train_s"])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fixed", {"epochs": 2, "lrs": [0.1, 0.01]}),
        ("fixed", {"grid": {"lr": [0.1, 0.01], "epochs": [1, 2]}}),
        ("fixed", {"epochs": 1, "lrs": [0.1, 0.01], "bn_stats": "update", "refit": True}),
        ("full", {"steps": 3, "lrs": [0.1], "per_class": 2, "grid": {"eval_crop": [0.5, 1.0]}}),
        (
            "full",
            {
                "epochs": 4,
                "lrs": [0.1, 0.05, 0.01, 0.005],
                "policy": {"halving": {"factor": 2, "rungs": 3}},
            },
        ),
        (
            "scratch",
            {
                "epochs": 1,
                "lrs": [0.1],
                "grid": {"weight_decay": [0.0, 0.1]},
                "policy": {"reduced": 1},
            },
        ),
    ],
)
def test_a_transfer_trains_and_evaluates_as_often_as_predicted(
    root: Path,
    data: Result,
    model: Result,
    forward_batch_sizes: list[int],
    method: str,
    settings: dict[str, Any],
):
    crops = {} if "eval_crop" not in settings.get("grid", {}) else {"eval_crop"}
    own = {key: value for key, value in SHORT.items() if key not in crops}
    config: dict[str, Any] = {
        "method": method,
        "metric": "top1",
        "seed": 0,
        "settings": {**own, **settings},
    }
    write, source = (
        Stage("write", {"data": "target"}),
        Stage("pretrain", {"arch": "resnet10", "settings": PRETRAIN}),
    )
    needs, stages = {"data": data, "model": model}, {"data": write, "model": source}
    if method == "scratch":
        config["arch"] = {"arch": "resnet10", "channels": [16, 16, 16, 16], "blur_pool": False}
        needs, stages = {"data": data}, {"data": write}
    outcome = transfer.run(context_of(root, f"run{len(list(root.iterdir()))}", config, needs))
    assert predicted(root, Stage("transfer", config, stages), data) == {
        "transfer": pytest.approx(trained(outcome)),
        "forward": sum(forward_batch_sizes),
    }


def test_a_pretraining_trains_and_evaluates_as_often_as_predicted(
    root: Path, data: Result, forward_batch_sizes: list[int]
):
    settings = {
        "epochs": 3,
        "resolution": 32,
        "progressive": {"start_resolution": 16, "ramp": [0, 2], "multiple": 8},
        "ema_decay": 0.9,
        "eval_every": 2,
    }
    context = pretrain_context(root, data, "pretrained", settings=settings)
    outcome = pretrain.run(context)
    stage = Stage("pretrain", context.config, {"data": Stage("write", {"data": "target"})})
    assert predicted(root, stage, data) == {
        "pretrain": pytest.approx(trained(outcome)),
        "forward": sum(forward_batch_sizes),
    }
    parts = {
        part.step["settings"]["resolution"]: part.num_images
        for part in Workloads(root).of(stage) or ()
        if part.step["step"] == "pretrain"
    }
    assert parts == {
        epoch["resolution"]: epoch["num_images"] for epoch in outcome.metrics["epochs"]
    }
    assert len(parts) == 3


def test_every_kind_of_step_can_be_timed(root: Path):
    """Each kind of step runs; its time is not checked."""
    from harness.estimate.calibrate import measure
    from harness.system.folders import Folders

    model = {
        "arch": "resnet10",
        "channels": [16, 16, 16, 16],
        "blur_pool": False,
        "batch_norm_scale": True,
    }
    view = {"model": model, "resolution": 16, "batch_size": 4}
    attack = {"steps": 1, "relative_step_size": 1.0}
    own = {"batch_size": 4, "resolution": 16, "accumulate": "auto", "precision": "float32"}
    steps: list[dict[str, Any]] = [
        {"step": "forward", **view, "precision": "float32"},
        {"step": "attack", **view, "precision": "bf16", "attack": {**attack, "restarts": 1}},
        *(
            {
                "step": "pretrain",
                "arch": "resnet10",
                "attacked": attacked,
                "settings": {**own, "channels": [16, 16, 16, 16], "attack": attack},
            }
            for attacked in (False, True)
        ),
        *(
            {
                "step": "transfer",
                "model": model,
                "method": method,
                "num_trials": num_trials,
                "settings": {
                    name: value
                    for name, value in {**own, "bn_stats": bn_stats, "train_from": 2}.items()
                    if name in settings_model(method).model_fields
                    and (method, name) != ("scratch", "bn_stats")
                },
            }
            for method, num_trials, bn_stats in (
                ("fixed", 2, "frozen"),
                ("fixed", 1, "update"),
                ("full", 1, "update"),
                ("scratch", 1, "update"),
                ("l2sp", 1, "update"),
                ("partial", 1, "update"),
            )
        ),
    ]
    found = list(measure(steps, Folders.resolve(root, root, root), device="cpu", num_threads=1))
    assert [step for step, _ in found] == steps
    assert all(isinstance(seconds, float) and seconds > 0 for _, seconds in found), found
