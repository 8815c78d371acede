"""Coarser labels are scored as by numpy; held-out rankings use images not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.modeling import classifier as models
from harness.runner.result import Result
from harness.stages.evaluate import run as evaluate
from harness.stages.pretrain import run as pretrain
from harness.stages.rank import run as rank
from harness.train.evaluate import group_logits
from harness.train.loader_plans import sample_per_class_of_beton, without_held_out
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import as_result, context_of, pretrain_context, write_colors
from writers.errors import UserError

CONFIG = {
    "settings": {"attack": {"steps": 2}, "batch_size": 8},
    "eps": 0.0,
    "resolution": 24,
    "eval_crop": 1.0,
    "precision": "auto",
    "flip_tta": False,
}


@pytest.fixture(scope="module")
def source(root: Path) -> Result:
    written = write_colors(root / "data", colors=5)
    written.metrics["subset"] = {"name": "all"}
    return written


@pytest.fixture(scope="module")
def model(root: Path, source: Result) -> Result:
    return as_result("pretrain", pretrain.run(pretrain_context(root, source)).metrics)


def coarse(*groups: list[str]) -> Result:
    """Return the result of a write stage with one label per group of classes."""
    return as_result(
        "write",
        {
            "classes": [str(label) for label in range(len(groups))],
            "subset": {"name": "coarse", "groups": list(groups)},
        },
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_coarser_logits_are_summed_probabilities_or_the_likeliest_class():
    logits = np.random.default_rng(0).normal(0, 4, (50, 7)).astype(np.float32)
    # Probabilities of two groups that underflow to 0 in a float32 softmax.
    logits[0] = [200, -200, 0, 0, 0, 0, -200]
    groups = np.array([2, 0, 1, 1, 0, 2, 2])
    summed = np.stack([softmax(logits)[:, groups == group].sum(1) for group in range(3)], 1)
    found = group_logits(torch.tensor(logits), torch.tensor(groups), 3, "sum")
    np.testing.assert_allclose(softmax(found.numpy()), summed, rtol=1e-5)  # logits are float32
    assert torch.isfinite(found).all()
    found = group_logits(torch.tensor(logits), torch.tensor(groups), 3, "max")
    assert found.argmax(1).tolist() == groups[logits.argmax(1)].tolist()


def test_a_fine_model_is_scored_on_coarser_labels(root: Path, source: Result, model: Result):
    groups = [["color1", "color4"], ["color0"], ["color2", "color3"]]
    needs = {"model": model, "data": source, "common_0": source, "common_1": coarse(*groups)}
    config = {**CONFIG, "common": ["common_0"], "coarse": {"common_1": "coarse"}}
    metrics = evaluate.run(context_of(root, "fine", config, needs)).metrics
    assert metrics["num_common_classes"] == 5, "coarser labels are not common classes"
    found = metrics["coarse"]["coarse"]
    assert found["num_labels"] == 3 and found["adversarial"] is None

    net, _ = models.load(root / "model" / pretrain.MODEL_FILE)
    group_of = np.array([1, 0, 2, 2, 0])
    right = {"sum": 0, "max": 0}
    beton = root / "data" / source.metrics["splits"]["val"]["path"]
    with (
        open_loader(LoaderPlan(beton, 8, 24, center_fraction=1.0)) as loader,
        loader.epoch(0) as batches,
        torch.no_grad(),
    ):
        for images, labels in batches:
            logits, truth = net.eval()(images).numpy(), group_of[labels.numpy()]
            summed = np.stack(
                [softmax(logits)[:, group_of == group].sum(1) for group in range(3)], 1
            )
            right["sum"] += int((summed.argmax(1) == truth).sum())
            right["max"] += int((group_of[logits.argmax(1)] == truth).sum())
    assert {by: found["clean"][by]["num_correct"] for by in ("sum", "max")} == right
    assert found["clean"]["sum"]["num_images"] == 40
    assert right["max"] >= metrics["clean"]["own"]["num_correct"]
    assert set(metrics["clean"]) == {"own", "common_unmasked", "common_masked"}


def test_a_coarse_model_is_scored_on_its_own_labels_and_not_on_finer_or_crossing_ones(root: Path):
    written = write_colors(root / "data", "three", colors=3)
    own = [["a", "b"], ["c"], ["d"]]
    written.metrics["subset"] = {"name": "coarse", "groups": own}
    trained = as_result(
        "pretrain", pretrain.run(pretrain_context(root, written, "of three")).metrics
    )
    sets = {
        "own": own,
        "coarser": [["a", "b", "c"], ["d"]],
        "finer": [["a"], ["b"], ["c"], ["d"]],
        "crossing": [["a"], ["b", "c", "d"]],
        "less": [["a", "b"], ["c"]],
    }
    needs = {"model": trained, "data": written} | {
        f"common_{name}": coarse(*groups) for name, groups in sets.items()
    }
    config = {**CONFIG, "common": [], "coarse": {f"common_{name}": name for name in sets}}
    context = context_of(root, "coarse", config, needs)
    context.need_folders["model"] = root / "of three"
    metrics = evaluate.run(context).metrics
    assert set(metrics["coarse"]) == {"own", "coarser"}
    assert metrics["coarse"]["own"]["clean"] == {"own": metrics["clean"]["own"]}
    assert metrics["coarse"]["coarser"]["clean"]["sum"]["num_images"] == 24
    assert metrics["num_common_classes"] == 0 and set(metrics["clean"]) == {"own"}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["color0", "color2"], ["color0", "color2"]),
        (["color0", "no color"], []),
        (["no color"], []),
    ],
)
def test_a_model_without_the_common_classes_is_evaluated_on_its_own_classes(
    root: Path, source: Result, model: Result, classes: list[str], expected: list[str]
):
    other = as_result("write", {"classes": classes, "subset": {"name": "other"}})
    needs = {"model": model, "data": source, "common_0": source, "common_1": other}
    metrics = evaluate.run(
        context_of(root, "common", {**CONFIG, "common": ["common_1"]}, needs)
    ).metrics
    assert metrics["common_classes"] == expected
    assert set(metrics["clean"]) == (
        {"own", "common_unmasked", "common_masked"} if expected else {"own"}
    )


def test_a_held_out_ranking_uses_images_that_the_reference_was_not_trained_on(
    root: Path, source: Result
):
    held_out = {"per_class": 4, "seed": 7}
    context = pretrain_context(root, source, "reference")
    context.config["held_out"] = held_out
    trained = pretrain.run(context).metrics
    assert trained["num_train_images"] == 5 * (20 - 4)
    context = context_of(
        root,
        "rank",
        {
            "split": "train",
            "held_out": held_out,
            "batch_size": 8,
            "resolution": 24,
            "eval_crop": 1.0,
            "precision": "auto",
        },
        {"model": as_result("pretrain", trained), "data": source},
    )
    context.need_folders["model"] = root / "reference"
    metrics = rank.run(context).metrics
    assert set(metrics["num_images"].values()) == {4} and metrics["split"] == "held_out"

    plan = pretrain._plan(
        pretrain_context(root, source, "again"),
        pretrain.PretrainSettings(batch_size=8, resolution=24),
        0,
    )
    seen = without_held_out(plan, held_out).indices
    unseen = sample_per_class_of_beton(plan.beton, 4, 7)
    assert sorted([*seen, *unseen]) == list(range(100)), (
        "each image is used either for training or for the ranking"
    )
    with pytest.raises(UserError, match=r"5 classes have no image of colors left"):
        without_held_out(plan, {"per_class": 20, "seed": 7})
