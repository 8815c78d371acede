"""The stages pretrain and transfer on tiny `.beton` files: they learn, repeat and resume exactly."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.modeling import classifier as models
from harness.modeling.flops import training_flops
from harness.profiling.timer import SPANS
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.pretrain import run as pretrain
from harness.stages.transfer import run as transfer
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import (
    TRANSFER,
    as_result,
    context_of,
    pretrain_context,
    without_times,
    write_colors,
)
from writers.errors import UserError


def same_weights(first: Path, second: Path) -> bool:
    one, other = (
        models.load(path / pretrain.MODEL_FILE)[0].state_dict() for path in (first, second)
    )
    return all(torch.equal(one[name], other[name]) for name in one)


def test_pretraining_learns_three_colors(model: Result, root: Path):
    assert model.metrics["val"]["top1"] > 0.9
    assert model.metrics["num_train_images"] == 60
    assert model.metrics["num_steps"] == 20 * 4  # batches of 16, 16, 16 and 12
    weights, about = models.load(root / "model" / pretrain.MODEL_FILE)
    assert about["classes"] == ["color0", "color1", "color2"]
    assert weights.head.out_features == 3
    assert not (root / "model" / "checkpoints").exists()


def test_the_progress_names_the_phase_after_the_last_step(model: Result, root: Path):
    progress = json.loads((root / "model" / "progress.json").read_text())
    assert progress["done"] == progress["total"] == 80
    assert progress["note"] == "speed without loading"


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_the_same_stage_gives_the_same_numbers_and_weights(root: Path, source: Result, eps: float):
    outcomes = [
        pretrain.run(pretrain_context(root, source, f"again{index}-{eps}", eps=eps))
        for index in range(2)
    ]
    assert without_times(outcomes[0]) == without_times(outcomes[1])
    assert same_weights(root / f"again0-{eps}", root / f"again1-{eps}")
    other = pretrain.run(pretrain_context(root, source, f"other-{eps}", eps=eps, seed=1))
    assert without_times(other) != without_times(outcomes[0])


def test_robust_training_reports_the_time_of_the_attack(root: Path, source: Result):
    outcome = pretrain.run(pretrain_context(root, source, "robust", eps=0.5))
    spans = outcome.timing["spans_s"]
    assert set(spans) == {*SPANS}
    assert spans["attack"] > spans["forward"] + spans["backward"] > 0
    assert sum(spans.values()) <= outcome.timing["train_s"] * 1.001
    assert outcome.metrics["eps_resolution"] == 24
    clean = pretrain.run(pretrain_context(root, source, "clean", trace_steps=2))
    assert clean.timing["spans_s"]["attack"] == 0
    assert (root / "clean" / clean.timing["trace"]).stat().st_size > 1000
    assert outcome.timing["trace"] is None


def test_timing_covers_each_epoch(root: Path, source: Result):
    timing = pretrain.run(pretrain_context(root, source, "timing")).timing
    assert [set(epoch["percentiles_ms"]) for epoch in timing["epochs"]] == [{"step", *SPANS}] * 2
    for epoch in timing["epochs"]:
        step = epoch["percentiles_ms"]["step"]
        assert 0 < step["p50"] <= step["p90"] <= step["p99"] <= 1000 * epoch["train_s"]
        assert epoch["img_per_s"] == pytest.approx(60 / epoch["train_s"])
        assert epoch["checkpoint_s"] == 0
    assert sum(epoch["train_s"] for epoch in timing["epochs"]) == pytest.approx(timing["train_s"])
    assert timing["gpu_fed"] == timing["img_per_s"] / timing["replay_img_per_s"] > 0
    assert timing["gpu"] is None
    assert timing["peak_share"] is None
    model = models.build("resnet10", 3, channels=(16, 16, 16, 16))
    assert timing["model_flops_per_s"] * timing["train_s"] == pytest.approx(
        120 * training_flops(model, 24, None)
    )


@pytest.mark.parametrize("random_start", ["none", "ball"])
def test_interrupted_and_resumed_equals_uninterrupted(
    root: Path, source: Result, random_start: str
):
    settings = {"epochs": 4, "attack": {"steps": 1, "random_start": random_start}}
    name = f"resume-{random_start}"
    whole = pretrain.run(
        pretrain_context(root, source, f"{name}-whole", eps=0.25, settings=settings)
    )
    for stop_at in (6, 5):  # within the second epoch, then within the third
        calls = iter(range(10**6))
        with pytest.raises(Stopped):
            pretrain.run(
                pretrain_context(
                    root,
                    source,
                    name,
                    eps=0.25,
                    settings=settings,
                    stop_requested=lambda calls=calls, stop_at=stop_at: next(calls) >= stop_at,
                )
            )
        assert len(list((root / name / "checkpoints").glob("*.pt"))) in (1, 2)
    resumed = pretrain.run(pretrain_context(root, source, name, eps=0.25, settings=settings))
    assert without_times(resumed) == without_times(whole)
    assert same_weights(root / name, root / f"{name}-whole")


@pytest.mark.parametrize(
    "attack", [{"eps_at": 16}, {"method": "free", "replays": 2}, {"method": "fast", "norm": "linf"}]
)
def test_resume_is_exact_with_progressive_resizing_ema_and_fast_and_free_attacks(
    root: Path, source: Result, attack: dict
):
    """Stops after every third step, also within epochs. `eps_used` is the radius by resolution."""
    settings = {
        "epochs": 3,
        "resolution": 24,
        "progressive": {"start_resolution": 16, "ramp": [0, 2], "multiple": 4},
        "ema_decay": 0.9,
        "attack": attack,
        "flip_tta": True,
    }
    name = "-".join(map(str, ("resize", *attack.values())))
    whole = pretrain.run(
        pretrain_context(root, source, f"{name}-whole", eps=0.25, settings=settings)
    )
    outcome = None
    for _ in range(20):
        calls = iter(range(10**6))
        try:
            outcome = pretrain.run(
                pretrain_context(
                    root,
                    source,
                    name,
                    eps=0.25,
                    settings=settings,
                    stop_requested=lambda calls=calls: next(calls) >= 3,
                )
            )
            break
        except Stopped:
            pass
    assert outcome is not None and outcome.timing["num_restarts"] >= 3
    assert without_times(outcome) == without_times(whole)
    assert same_weights(root / name, root / f"{name}-whole")
    assert [record["resolution"] for record in whole.metrics["epochs"]] == [16, 20, 24]
    assert whole.metrics["eps_used"] == (
        {"16": 0.25, "20": 0.3125, "24": 0.375}
        if "eps_at" in attack
        else {"16": 0.25, "20": 0.25, "24": 0.25}
    )
    assert whole.metrics["val_of_last_step"]["num_images"] == whole.metrics["val"]["num_images"]
    assert whole.metrics["val_of_last_step"] != whole.metrics["val"]


def test_evaluating_during_training_changes_no_weights_and_resumes(root: Path, source: Result):
    """Evaluation after every second epoch has its own time. The weights equal those without it."""
    settings = {"epochs": 5, "ema_decay": 0.5}
    plain = pretrain.run(pretrain_context(root, source, "no-eval", settings=settings))
    settings |= {"eval_every": 2}
    whole = pretrain.run(pretrain_context(root, source, "eval", settings=settings))
    assert [record["epoch"] for record in whole.metrics["epochs"] if "val" in record] == [2, 4]
    assert all(record["val"]["num_images"] == 24 for record in whole.metrics["epochs"][1::2])
    times = [epoch.get("eval_s") for epoch in whole.timing["epochs"]]
    assert times[0] is None and 0 < times[1] < whole.timing["eval_s"]
    assert same_weights(root / "eval", root / "no-eval")
    assert whole.metrics["val"] == plain.metrics["val"]
    # Stop between the second epoch and its evaluation, so that the checkpoint lacks the scores.
    # Then stop one step later.
    for stop_at in (9, 1):
        calls = iter(range(10**6))
        with pytest.raises(Stopped):
            pretrain.run(
                pretrain_context(
                    root,
                    source,
                    "eval-stopped",
                    settings=settings,
                    stop_requested=lambda calls=calls, stop_at=stop_at: next(calls) >= stop_at,
                )
            )
    resumed = pretrain.run(pretrain_context(root, source, "eval-stopped", settings=settings))
    assert without_times(resumed) == without_times(whole)
    assert same_weights(root / "eval", root / "eval-stopped")


def test_equal_steps_takes_as_many_steps_as_all_the_data_would(root: Path, source: Result):
    few = write_colors(root / "data", "few", splits={"train": 7, "val": 4})
    context = pretrain_context(root, few, "equal", settings={"length": "equal_steps", "epochs": 3})
    context.needs["all_data"] = source
    metrics = pretrain.run(context).metrics
    assert metrics["num_steps"] == 3 * 4
    assert [record["lr"] for record in metrics["epochs"]] == pytest.approx(
        [0.1 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(0, 12, 2)]
    )
    assert [record["num_steps"] for record in metrics["epochs"]] == [
        2
    ] * 6  # two batches: 21 images are 16 and 5


@pytest.mark.parametrize("order", ["random", "quasi_random"])
def test_training_images_have_the_order_of_the_recipe(
    root: Path, source: Result, monkeypatch: pytest.MonkeyPatch, order: str
):
    opened = []

    def opening(plan: LoaderPlan):
        opened.append(plan)
        return open_loader(plan)

    monkeypatch.setattr(pretrain, "open_loader", opening)
    pretrain.run(pretrain_context(root, source, order, settings={"epochs": 1, "order": order}))
    assert [plan.order for plan in opened if plan.augment == "random_resized_crop"] == [order]


def test_a_last_batch_of_one_image_is_dropped(root: Path):
    # 33 images are 16, 16 and 1.
    odd = write_colors(root / "data", "odd", splits={"train": 11, "val": 4})
    metrics = pretrain.run(pretrain_context(root, odd, "odd")).metrics
    assert [record["num_images"] for record in metrics["epochs"]] == [32, 32]


def test_divergence_is_reported_with_its_step_even_at_the_last(root: Path, source: Result):
    with pytest.raises(
        UserError,
        match=r"not finite from step \d of 8 on \(epoch \d of 2, .* of a peak of 1e\+30\)",
    ):
        pretrain.run(
            pretrain_context(root, source, "diverged", settings={"optimizer": {"lr": 1e30}})
        )
    too_far = {"lr": 3e38, "schedule": "constant", "weight_decay": 1e6}
    last = {"epochs": 1, "batch_size": 60, "optimizer": too_far}  # one step, whose loss is finite
    with pytest.raises(UserError, match="not finite from step 1 of 1 on"):
        pretrain.run(pretrain_context(root, source, "diverged-last", settings=last))


def test_logits_that_are_not_finite_are_an_error_in_evaluation(root: Path, source: Result):
    # The weights stay finite, but the logits overflow.
    large = {
        "epochs": 1,
        "batch_size": 60,
        "optimizer": {"lr": 1e38, "schedule": "constant"},
    }
    with pytest.raises(UserError, match=r"loss over 24 images is (nan|inf) in evaluation"):
        pretrain.run(pretrain_context(root, source, "overflow", settings=large))


@pytest.mark.parametrize("method", ["fixed", "full"])
def test_transfer_learns_chooses_on_val_and_reads_test_once(
    root: Path, model: Result, target: Result, monkeypatch, method
):
    opened = []
    monkeypatch.setattr(
        transfer, "open_loader", lambda plan: opened.append(plan.beton.name) or open_loader(plan)
    )
    config = {"method": method, "seed": 0, "metric": "top1", "settings": {**TRANSFER, "epochs": 8}}
    outcome = transfer.run(
        context_of(root, f"transfer-{method}", config, {"model": model, "data": target})
    )
    metrics = outcome.metrics
    assert metrics["test"]["top1"] > 0.6  # chance is 0.25
    assert metrics["test"]["num_images"] == 32
    assert opened.count("test.beton") == 1
    answers = np.load(root / f"transfer-{method}" / metrics["predictions"])
    assert answers["test_correct"].sum() == metrics["test"]["num_correct"]
    assert len(answers["sample"]) == 32
    assert [entry["lr"] for entry in metrics["grid"]] == [0.1, 0.01]
    best = max(entry["val"]["top1"] for entry in metrics["grid"])
    assert metrics["val"]["top1"] == best
    assert metrics["lr"] == min(
        entry["lr"] for entry in metrics["grid"] if entry["val"]["top1"] == best
    )
    assert metrics["bn_stats"] == {"fixed": "frozen", "full": "update"}[method]
    assert outcome.timing["num_steps"] == 8 * 5 * (1 if method == "fixed" else 2)
    again = transfer.run(
        context_of(root, f"again-{method}", config, {"model": model, "data": target})
    )
    assert again.metrics == metrics


@pytest.mark.parametrize("method", ["fixed", "full", "l2sp", "scratch"])
def test_a_kept_model_gives_the_scores_of_the_test_split(
    root: Path, model: Result, target: Result, method: str
):
    settings = {**TRANSFER, "refit": method == "full"}
    config = {"method": method, "seed": 0, "metric": "top1", "settings": settings}
    needs = {"model": model, "data": target}
    if method == "scratch":
        del needs["model"]
        config["arch"] = {"arch": "resnet10", "channels": [16, 16, 16, 16]}
    plain = transfer.run(context_of(root, f"not-kept-{method}", config, needs)).metrics
    assert not (root / f"not-kept-{method}" / pretrain.MODEL_FILE).exists()

    config["settings"] = {**settings, "keep_model": True}
    context = context_of(root, f"kept-{method}", config, needs)
    kept = transfer.run(context).metrics
    assert kept == {**plain, "model": pretrain.MODEL_FILE}
    loaded, about = models.load(context.folder / kept["model"])
    assert about["classes"] == target.metrics["classes"]
    assert (about["eval_crop"], about["resolution"], about["eps"]) == (1.0, 24, 0.0)
    plan = LoaderPlan(
        root / "data" / target.metrics["splits"]["test"]["path"],
        batch_size=32,
        resolution=24,
        order="sequential",
        augment="center_crop",
        center_fraction=1.0,
        interpolation=about["interpolation"],
    )
    with open_loader(plan) as loader, loader.epoch(0) as batches, torch.no_grad():
        [(images, labels)] = list(batches)
        answers = loaded.eval()(images.float() / 255).argmax(1)
    assert int((answers == labels).sum()) == kept["test"]["num_correct"]


def test_a_diverging_rate_is_skipped_unless_all_diverge(root: Path, model: Result, target: Result):
    for method in ("fixed", "full"):
        config = {
            "method": method,
            "seed": 0,
            "metric": "top1",
            "settings": {**TRANSFER, "lrs": [1e38, 0.05]},
        }
        metrics = transfer.run(
            context_of(root, f"high-{method}", config, {"model": model, "data": target})
        ).metrics
        assert metrics["lr"] == 0.05
        assert [entry["val"] is None for entry in metrics["grid"]] == [True, False]
        config["settings"] = {**TRANSFER, "lrs": [1e38]}
        with pytest.raises(UserError, match="not finite"):
            transfer.run(
                context_of(root, f"all-{method}", config, {"model": model, "data": target})
            )


@pytest.mark.parametrize(("arch", "taken"), [("timm/test_vit", 160), ("timm/test_resnet", 24)])
def test_a_network_of_one_input_size_gets_images_of_that_size(
    root: Path, tmp_path: Path, target: Result, arch: str, taken: int
):
    """A transformer with position embeddings uses its own resolution, not that of the method."""
    models.save(
        tmp_path / pretrain.MODEL_FILE, models.build(arch, 3), {"arch": arch, "resolution": 160}
    )
    settings = {**TRANSFER, "epochs": 1, "eval_resolution": 32, "lrs": [0.01]}
    config = {"method": "full", "seed": 0, "metric": "top1", "settings": settings}
    context = context_of(
        root, f"size-{taken}", config, {"model": as_result("adopt", {}), "data": target}
    )
    metrics = transfer.run(
        replace(context, need_folders={**context.need_folders, "model": tmp_path})
    ).metrics
    assert metrics["resolution"] == taken and metrics["test"]["num_images"] == 32
