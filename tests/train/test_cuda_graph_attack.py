"""Attacks in a CUDA graph equal eager attacks. They are not among the modes for a CPU."""

import threading

import pytest
import torch

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling.classifier import build
from harness.profiling.timer import Timer
from harness.train import autotune
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, TrainStep, make_step
from loaders.epoch import STREAM_PRIORITY

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_learner(compiled: str, **attack) -> TrainStep:
    torch.manual_seed(0)
    model = build("resnet10", 5, channels=(16, 16, 16, 16)).to("cuda")
    config = StepConfig(0.1, device="cuda:0", attack=AttackSettings(steps=3, **attack), eps=0.5)
    learner = make_step(
        model.train(), make_sgd(model, ScheduleSettings(), 0.1), config, Timer("cuda:0")
    )
    learner.compile(compiled, 16)
    learner.set_rate(1.0)
    return learner


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "attack", [{}, {"random_start": "ball"}, {"best_iterate": True, "norm": "linf"}]
)
def test_a_captured_attack_equals_the_eager_one(attack):
    """The weights and the resolution change; a smaller batch is not captured.

    The weights are made equal before each batch, because training amplifies rounding differences.
    """
    eager, captured = (make_learner(name, **attack) for name in ("eager", "captured_attack"))
    for size, side in ((16, 32), (16, 32), (7, 32), (16, 48), (16, 48)):
        # Copies in place, because a graph reads fixed addresses.
        captured.model.load_state_dict(eager.model.state_dict())
        batch = autotune.noise_batch(size, side, 5, "cuda:0")
        theirs, ours = (learner.attack(*batch).clone() for learner in (eager, captured))
        # cuDNN may sum in another order. A few pixels then move differently: near a kink of ReLU,
        # or if linf takes the sign of a gradient close to zero.
        assert ((ours - theirs).abs() < 1e-4).double().mean() > 0.99
        for learner in (eager, captured):
            learner.train_batch(*batch)
    eager_totals, captured_totals = eager.totals(), captured.totals()
    assert captured_totals["num_images"] == eager_totals["num_images"] == 71
    assert captured_totals["zero_gradients"] == eager_totals["zero_gradients"]


@pytest.mark.gpu
@needs_gpu
def test_a_captured_attack_needs_no_memory_that_torch_frees():
    """torch.compile frees the workspaces of matrix products when it records a graph."""
    learner = make_learner("captured_attack")
    batch = autotune.noise_batch(16, 32, 5, "cuda:0")
    expected = learner.attack(*batch).clone()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = torch.full((2**28,), 77, dtype=torch.uint8, device="cuda:0")
    found = learner.attack(*batch)
    assert ((found - expected).abs() < 1e-4).double().mean() > 0.99
    assert (others == 77).all()


@pytest.mark.gpu
@needs_gpu
def test_a_loader_thread_may_use_cuda_during_a_capture():
    """Loader threads pin memory and wait for copies, which by default fails during a capture."""
    at_work, over, errors = threading.Event(), threading.Event(), []

    def load() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream(priority=STREAM_PRIORITY)):
                for number in range(256):  # growing, so that no memory is reused
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

    learner = make_learner("captured_attack")
    loader = threading.Thread(target=load)
    loader.start()
    assert at_work.wait(240)
    for side in (32, 40, 48):
        learner.train_batch(*autotune.noise_batch(16, side, 5, "cuda:0"))
    over.set()
    loader.join()
    assert not errors and learner.totals()["num_images"] == 48


@pytest.mark.parametrize(
    ("on_gpu", "attacked", "names"),
    [
        (False, False, ["eager", "compiled"]),
        (False, True, ["eager", "compiled"]),
        (True, False, ["eager", "compiled", "cuda_graphs"]),
        (
            True,
            True,
            ["eager", "captured_attack", "compiled", "compiled_captured_attack", "cuda_graphs"],
        ),
    ],
)
def test_compile_modes_by_device_and_attack(on_gpu, attacked, names):
    assert autotune.compile_modes(on_gpu, attacked) == names
