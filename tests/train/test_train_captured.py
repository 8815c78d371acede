"""Attacks as one CUDA graph: on a GPU the same images as without; elsewhere they are never chosen."""

import pytest
import torch

from harness.attack_settings import AttackSettings
from harness.model import build
from harness.timer import Timer
from harness.train import trial
from harness.train.trainee import ModelTrainee
from harness.train_settings import ScheduleSettings

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_trainee(compiled: str, **attack) -> ModelTrainee:
    torch.manual_seed(0)
    model = build("resnet10", 5, channels=(8, 8, 8, 8)).to("cuda")
    trainee = ModelTrainee(model, ScheduleSettings(), 0.1, device="cuda:0", precision="float32", label_smoothing=0.0,
                           timer=Timer("cuda:0"), train_mode=model.train, attack=AttackSettings(steps=3, **attack), eps=0.5)
    trainee.batch_size = 16
    trainee.compile(compiled)
    trainee.set_rate(1.0)
    return trainee


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("attack", [{}, {"random_start": "ball"}, {"best_iterate": True, "norm": "linf"}])
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


@pytest.mark.parametrize(("on_gpu", "attacked", "names"), [
    (False, False, ["eager", "compiled"]),
    (False, True, ["eager", "compiled"]),
    (True, False, ["eager", "compiled", "cuda_graphs"]),
    (True, True, ["eager", "compiled", "cuda_graphs", "captured_attack", "compiled_captured_attack"]),
])
def test_what_is_tried(on_gpu, attacked, names):
    assert trial.ways(on_gpu, attacked=attacked) == names
