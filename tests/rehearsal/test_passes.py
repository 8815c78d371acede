"""Passes over a split on a fake CUDA device: evaluation, ranking and features."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.config.attack import EvaluationAttack
from harness.modeling.classifier import Classifier
from harness.runner.context import RestartRequiredError
from harness.train import compile_choice, evaluation_attack
from harness.train.cuda_graph_attack import CudaGraphAttack
from harness.train.evaluate import EvaluationPlan, View, choose_compile_mode, evaluate
from harness.train.evaluation_attack import AttackPlan, attack_modes
from harness.transfer.features import Features, extract
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton
from tests.rehearsal import graphs, product, streams
from tests.rehearsal.cuda import no_sync

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LoaderPlan:
    """21 images: five whole batches and one image."""
    images = [photo(24, 24, seed=number) for number in range(21)]
    labels = [number % product.NUM_CLASSES for number in range(21)]
    path = tmp_path_factory.mktemp("beton") / "val.beton"
    return LoaderPlan(write_beton(path, images, labels, raw=[True] * 21), BATCH_SIZE, 24)


def on_cuda(plan: LoaderPlan) -> LoaderPlan:
    return replace(plan, device="cuda:0", backend="resident")


def features_of(plan: LoaderPlan, device: str) -> Features:
    with open_loader(plan) as loader:
        return extract(product.make_model(), loader, device=device, precision="float32")


def scores(plan: LoaderPlan, device: str, model: Classifier | None = None, **options) -> list:
    with open_loader(plan) as loader:
        counts = evaluate(
            model or product.make_model(),
            loader,
            EvaluationPlan(
                device=device,
                precision="float32",
                num_classes=product.NUM_CLASSES,
                views={"own": View()},
            ),
            keep_predictions=True,
            **options,
        )["own"]
    return [*counts.predictions(), counts.per_class()[1].numpy()]


def test_features_are_those_of_the_cpu(plan, request):
    expected = features_of(plan, "cpu")
    request.getfixturevalue("faked")
    found = features_of(on_cuda(plan), "cuda:0")
    for name in ("features", "probs", "labels", "ids"):
        assert (getattr(found, name) == getattr(expected, name)).all(), name


def test_features_do_not_wait_for_each_batch(faked, plan):
    with open_loader(on_cuda(plan)) as loader, no_sync():
        extract(product.make_model(), loader, device="cuda:0", precision="float32")


class Watched(Classifier):
    """A network that records the state of cuDNN's autotuning in each pass."""

    seen: list[bool]

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(torch.backends.cudnn.benchmark)
        return super().features(images)


@pytest.mark.parametrize("run", [scores, features_of])
def test_passes_use_cudnn_autotuning_and_restore_it(faked, plan, run, monkeypatch):
    model = product.make_model()
    model.__class__, model.seen = Watched, []
    monkeypatch.setattr(product, "make_model", lambda: model)
    run(on_cuda(plan), "cuda:0")
    assert len(model.seen) == 6 and all(model.seen)
    assert not torch.backends.cudnn.benchmark
    model.seen.clear()
    run(plan, "cpu")
    assert not any(model.seen)


# Attacked passes

ATTACK = EvaluationAttack(steps=4, random_start="ball", best_iterate=True)
TWICE = EvaluationAttack(steps=2, random_start="sphere", norm="linf", restarts=2)
MASKED = {"own": View(), "masked": View(labels=(0, 2), logits=(0, 2))}


def attacked(plan: LoaderPlan, device: str, mode: str, attack=ATTACK, **options) -> list:
    zero_gradients = torch.zeros((), dtype=torch.int64, device=device)
    model = product.make_model()
    with torch.no_grad():
        model.head.weight *= 1000  # saturates the softmax, so that some gradients are exactly zero
    with open_loader(plan) as loader:
        counts = evaluate(
            model,
            loader,
            EvaluationPlan(
                device=device,
                precision="float32",
                num_classes=product.NUM_CLASSES,
                views=MASKED,
                attack=attack,
                eps=0.3,
                compile_mode=mode,
            ),
            keep_predictions=True,
            zero_gradients=zero_gradients,
            **options,
        )
    arrays = [array.tolist() for count in counts.values() for array in count.predictions()]
    return [*arrays, [count.scores() for count in counts.values()], int(zero_gradients)]


@pytest.mark.parametrize("attack", [ATTACK, TWICE], ids=["once", "restarts"])
def test_an_attacked_pass_in_every_mode_is_that_of_the_cpu(plan, attack, request):
    """A mode with captures replays the five whole batches, and computes the last image eagerly."""
    expected = attacked(plan, "cpu", "eager", attack)
    num_zero_gradients = expected[-1]
    assert num_zero_gradients > 0
    request.getfixturevalue("faked")
    for mode in attack_modes(on_gpu=True):
        assert attacked(on_cuda(plan), "cuda:0", mode, attack) == expected, mode


def test_whole_batches_of_each_view_are_replayed(faked, plan, monkeypatch):
    replays = []
    replay = graphs.CUDAGraph.replay
    monkeypatch.setattr(
        graphs.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))
    )
    attacked(on_cuda(plan), "cuda:0", "captured_attack")
    assert len(replays) == 2 * 5 and len(set(replays)) == 2


@pytest.mark.parametrize("mode", ["eager", "captured_attack"])
def test_an_attack_does_not_wait_for_the_gpu(faked, mode):
    plan = AttackPlan(ATTACK, 0.3, "float32", "cuda:0", mode, product.BATCH_SIZE)
    model, batch = product.make_model().to("cuda:0").eval(), product.make_batch("cuda:0")
    attack = plan.attack_on(model)
    attack(*batch)  # may capture a graph, which waits for the GPU
    with no_sync():
        attack(*batch)


def chosen_for(plan: LoaderPlan, folder: Path) -> dict:
    """Do what an evaluate stage with `compile: auto` does before its attacked pass.

    Returns what was measured.
    """
    with pytest.MonkeyPatch.context() as patch, open_loader(on_cuda(plan)) as loader:
        patch.setattr(evaluation_attack, "TRIAL_STEPS", 1)
        measured = choose_compile_mode(
            product.make_model(),
            loader,
            folder,
            "auto",
            EvaluationPlan(
                device="cuda:0",
                precision="float32",
                num_classes=product.NUM_CLASSES,
                views=MASKED,
                attack=ATTACK,
                eps=0.3,
            ),
        )
    compile_choice.record(folder, measured)
    return measured


def test_auto_tries_every_mode_of_the_attack_and_reuses_the_choice(faked, plan, tmp_path):
    measured = chosen_for(plan, tmp_path)
    assert set(measured) == {"chosen", *attack_modes(on_gpu=True)}
    assert all(measured[mode]["deviation"] == 0 for mode in attack_modes(True)[1:])
    assert chosen_for(plan, tmp_path) == measured


def test_an_attack_mode_that_runs_out_of_memory_is_skipped(faked, plan, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(CudaGraphAttack, "__call__", refuse)
    measured = chosen_for(plan, tmp_path)
    assert "out of memory" in measured["captured_attack"]["failed"]
    assert "captured" not in measured["chosen"]


@pytest.mark.parametrize("factor", [0.5, float("nan")])
def test_an_attack_mode_with_different_results_is_skipped(
    faked, plan, tmp_path, monkeypatch, factor
):
    """Simulates a graph that lost a part of the attack, or returned overwritten memory."""
    replayed = CudaGraphAttack.__call__

    def wrong(attack: CudaGraphAttack, images: Tensor, labels: Tensor) -> Tensor:
        clean = images.float() / 255
        return clean + factor * (replayed(attack, images, labels) - clean)

    monkeypatch.setattr(CudaGraphAttack, "__call__", wrong)
    measured = chosen_for(plan, tmp_path)
    assert "deviates" in measured["captured_attack"]["failed"]
    assert measured["compiled"]["deviation"] == 0


def test_a_failed_capture_of_the_attack_requires_a_new_process_without_it(
    faked, plan, tmp_path, monkeypatch
):
    def refuse(*_: object, **options: object) -> None:
        raise streams.CudaError("CUDA error: operation not permitted when stream is capturing")

    with monkeypatch.context() as patch:
        patch.setattr(graphs.CUDAGraph, "capture_begin", refuse)
        with pytest.raises(RestartRequiredError, match="captured_attack failed"):
            chosen_for(plan, tmp_path)
    assert set(chosen_for(plan, tmp_path)) == {"chosen", "eager", "compiled"}
