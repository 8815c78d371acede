"""Attacks as one CUDA graph: on a GPU the same images as without; elsewhere they are never chosen."""

import threading

import pytest
import torch

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling.classifier import build
from harness.profiling.timer import Timer
from harness.train import autotune as trial
from harness.train.trainee import ModelTrainee

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_trainee(compiled: str, **attack) -> ModelTrainee:
    torch.manual_seed(0)
    model = build("resnet10", 5, channels=(8, 8, 8, 8)).to("cuda")
    trainee = ModelTrainee(
        model,
        ScheduleSettings(),
        0.1,
        device="cuda:0",
        precision="float32",
        label_smoothing=0.0,
        timer=Timer("cuda:0"),
        train_mode=model.train,
        attack=AttackSettings(steps=3, **attack),
        eps=0.5,
    )
    trainee.batch_size = 16
    trainee.compile(compiled)
    trainee.set_rate(1.0)
    return trainee


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "attack", [{}, {"random_start": "ball"}, {"best_iterate": True, "norm": "linf"}]
)
def test_training_with_a_captured_attack_is_training_without(attack):
    """Over changing weights, another resolution and a short batch, which no graph takes."""
    trainees = [make_trainee(name, **attack) for name in ("eager", "captured_attack")]
    for size, side in ((16, 32), (16, 32), (7, 32), (16, 48), (16, 48)):
        batch = trial.noise_batch(size, side, 5, "cuda:0")
        for trainee in trainees:
            trainee.train_batch(*batch)
    eager, captured = (trainee.totals() for trainee in trainees)
    assert captured["num_images"] == eager["num_images"] == 71
    assert captured["loss"] == pytest.approx(eager["loss"], rel=1e-3)
    assert captured["zero_gradients"] == eager["zero_gradients"]
    for ours, theirs in zip(*(trainee.model.parameters() for trainee in trainees), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_loader_may_work_while_an_attack_is_captured():
    """Its threads pin memory and wait for copies, which CUDA by default refuses to all threads while one captures."""
    at_work, over, errors = threading.Event(), threading.Event(), []

    def load() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for number in range(256):  # ever larger, so that no earlier memory is used again
                    torch.empty((number + 1) * 2**20, dtype=torch.uint8, pin_memory=True).to(
                        "cuda:0", non_blocking=True
                    )
                    torch.cuda.current_stream().record_event().synchronize()
                    at_work.set()
                    if over.is_set():
                        break
        except RuntimeError as error:
            errors.append(error)
            at_work.set()

    trainee = make_trainee("captured_attack")
    loader = threading.Thread(target=load)
    loader.start()
    assert at_work.wait(60)
    for side in (32, 40, 48):
        trainee.train_batch(*trial.noise_batch(16, side, 5, "cuda:0"))
    over.set()
    loader.join()
    assert not errors and trainee.totals()["num_images"] == 48


@pytest.mark.parametrize(
    ("on_gpu", "attacked", "names"),
    [
        (False, False, ["eager", "compiled"]),
        (False, True, ["eager", "compiled"]),
        (True, False, ["eager", "compiled", "cuda_graphs"]),
        (
            True,
            True,
            ["eager", "compiled", "cuda_graphs", "captured_attack", "compiled_captured_attack"],
        ),
    ],
)
def test_what_is_tried(on_gpu, attacked, names):
    assert trial.ways(on_gpu, attacked=attacked) == names
