"""A GPU computes what a CPU computes, in every compile mode. `make gpu-check PART=A` runs this."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.system import distributed
from harness.system.gpu import select_gpu
from harness.train import autotune, micro_batching
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.evaluation_attack import attack_modes
from harness.train.step import TrainStep
from harness.transfer import logistic_regression
from harness.transfer.features import Features, extract
from loaders import open_loader
from loaders.epoch import STREAM_PRIORITY
from loaders.plan import LoaderPlan
from tests.helpers import ROOT
from tests.helpers.tiny_betons import photo, write_beton
from tests.rehearsal import product

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.timeout(240),
]
GPU = "cuda:0"
ATTACKS = {
    "clean": None,
    "pgd l2": AttackSettings(steps=2, best_iterate=True),
    "pgd linf": AttackSettings(steps=2, norm="linf"),
    "fast": AttackSettings(method="fast", random_start="ball"),
    "free": AttackSettings(method="free", replays=2),
}
# Relative tolerances. A GPU adds in another order than a CPU. This can change the sign of a ReLU's
# input that is nearly zero, and so its gradient; attacks amplify the difference.
LOSS, LENGTH = 0.02, 0.1


@pytest.fixture(autouse=True)
def gpu():
    """Select the GPU and switch TF32 off, as workers do."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    select_gpu(GPU)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LoaderPlan:
    """27 images of odd sizes in three classes, every second one as JPEG."""
    images = [photo(20 + 3 * number, 60 - number, seed=number) for number in range(27)]
    labels, raw = [number % 3 for number in range(27)], [number % 2 == 0 for number in range(27)]
    path = write_beton(tmp_path_factory.mktemp("beton") / "val.beton", images, labels, raw=raw)
    return LoaderPlan(path, product.BATCH_SIZE, 24)


def step_of(device: str, attack: str, mode: str = "eager", **settings) -> tuple[float, float]:
    """Take a training step; return its loss and the L2 norm of the change of all weights."""
    learner = product.make_learner(device, mode, attack=ATTACKS[attack], **settings)
    before = [value.cpu() for value in product.weights_of(learner)]
    learner.train_batch(*product.make_batch(device))
    pairs = zip(product.weights_of(learner), before, strict=True)
    lengths = [(value.cpu().float() - old.float()).norm() for value, old in pairs]
    return learner.totals()["loss"], float(torch.stack(lengths).norm())


@pytest.mark.parametrize("attack", ATTACKS)
def test_loss_and_update_are_those_of_a_cpu(attack):
    loss, length = step_of(GPU, attack)
    expected_loss, expected_length = step_of("cpu", attack)
    assert loss == pytest.approx(expected_loss, rel=LOSS)
    assert length == pytest.approx(expected_length, rel=LENGTH)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_has_nearly_the_loss_of_float32(precision):
    loss, length = step_of(GPU, "pgd l2", precision=precision)
    expected_loss, expected_length = step_of(GPU, "pgd l2")
    assert loss == pytest.approx(expected_loss, rel=3 * LOSS)
    assert length == pytest.approx(expected_length, rel=3 * LENGTH)


def test_every_compile_mode_takes_the_eager_step():
    """Each mode compiles with this machine's compiler, and its step agrees with the eager step."""
    learner = product.make_learner(GPU, attack=ATTACKS["pgd l2"])
    batch = product.make_batch(GPU)
    measured = autotune.choose_compile_mode(learner, batch, "auto", GPU)
    modes = set(measured) - {"chosen", "eager"}
    assert modes == set(product.COMPILE_MODES) - {"eager"}
    for mode in modes:
        assert "failed" not in measured[mode], mode
        assert measured[mode]["deviation"] < LENGTH, mode


def test_the_loss_over_micro_batches_is_that_of_a_cpu():
    loss, _ = step_of(GPU, "clean", num_micro_batches=2)
    assert loss == pytest.approx(step_of("cpu", "clean", num_micro_batches=2)[0], rel=LOSS)


def test_a_resumed_run_takes_the_same_next_step_as_the_saved_run():
    batch = product.make_batch(GPU)
    runs = [
        product.make_learner(GPU, "captured_attack", attack=ATTACKS["pgd linf"], ema_decay=0.9)
        for _ in range(2)
    ]
    runs[0].train_batch(*batch)
    runs[1].load_state_dict(product.checkpoint_of(runs[0]))
    for run in runs:
        run.totals()
        run.train_batch(*batch)
    losses = [run.totals()["loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=LOSS)


@pytest.mark.parametrize("backend", ["ffcv", "resident"])
def test_batches_have_the_bits_of_a_cpu(plan, backend):
    training = replace(
        plan, augment="random_resized_crop", horizontal_flip=True, order="random", batch_size=4
    )
    found, expected = (
        read(replace(training, device=device, backend=used))
        for device, used in ((GPU, backend), ("cpu", "ffcv"))
    )
    assert len(found) == len(expected) == 14
    for (images, labels), (twin, twin_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, twin) and torch.equal(labels, twin_labels)


def read(plan: LoaderPlan) -> list[tuple[Tensor, Tensor]]:
    with open_loader(plan) as loader:
        return [
            (images.cpu().clone(), labels.cpu().clone())
            for epoch in range(2)
            for images, labels in loader.epoch(epoch)
        ]


def test_slots_are_not_refilled_while_the_gpu_is_busy(plan):
    """The GPU uses at least 200 batches late: 100 ms of other work is queued before each epoch."""
    plan = replace(plan, batch_size=2, backend="ffcv")
    with open_loader(plan) as loader:
        expected = [images.clone() for images, _ in loader.epoch(0)]
    num_wrong = torch.zeros((), dtype=torch.int64, device=GPU)
    on_gpu = [images.to(GPU) for images in expected]
    with open_loader(replace(plan, device=GPU)) as loader:
        for _ in range(200 // len(expected) + 1):
            torch.cuda._sleep(180_000_000)  # clock cycles: 100 ms at 1.8 GHz
            for (images, _), twin in zip(loader.epoch(0), on_gpu, strict=True):
                torch.cuda._sleep(2_000_000)  # 1 ms
                num_wrong += (images != twin).any()
    assert num_wrong.item() == 0


def test_loaders_and_captures_use_different_streams():
    """torch assigns the streams of each priority in turn from a pool."""
    captures, loaders = (
        {torch.cuda.Stream(priority=priority).cuda_stream for _ in range(64)}
        for priority in (0, STREAM_PRIORITY)
    )
    assert captures.isdisjoint(loaders)


def scores(plan: LoaderPlan, device: str, mode: str | None = None) -> dict[str, float]:
    attack = EvaluationAttack(steps=4, best_iterate=True)
    with open_loader(replace(plan, device=device)) as loader:
        counts = evaluate(
            product.make_model().to(device),
            loader,
            EvaluationPlan(
                device=device,
                precision="float32",
                num_classes=product.NUM_CLASSES,
                views={"own": View(), "masked": View(labels=(0, 2), logits=(0, 2))},
                attack=attack if mode else None,
                eps=0.3,
                compile_mode=mode or "eager",
            ),
        )
    return {f"{name} {key}": x for name, c in counts.items() for key, x in c.scores().items()}


@pytest.mark.parametrize("mode", [None, *attack_modes(on_gpu=True)])
def test_an_evaluation_has_the_losses_of_a_cpu(plan, mode):
    found, expected = scores(plan, GPU, mode), scores(plan, "cpu", "eager" if mode else None)
    for name in found:
        if name.endswith(("loss", "num_images")):
            assert found[name] == pytest.approx(expected[name], rel=LOSS), name


def features_on(plan: LoaderPlan, device: str) -> Features:
    with open_loader(replace(plan, device=device)) as loader:
        model = product.make_model().to(device)
        return extract(model, loader, device=device, precision="float32")


def test_features_are_those_of_a_cpu(plan):
    found, expected = features_on(plan, GPU), features_on(plan, "cpu")
    assert (found.ids == expected.ids).all() and (found.labels == expected.labels).all()
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-3, atol=1e-4)


def test_logistic_regression_has_the_optimum_of_a_cpu():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 12, generator=generator)
    labels = (features @ torch.randn(12, 4, generator=generator)).argmax(1)
    found, expected = (
        logistic_regression.fit_path(features.to(device), labels.to(device), 4, [0.1, 1.0])
        for device in (GPU, "cpu")
    )
    for fit, twin in zip(found, expected, strict=True):
        torch.testing.assert_close(
            fit.logits(features.to(GPU)).cpu(), twin.logits(features), rtol=1e-3, atol=1e-3
        )


def test_a_batch_that_exhausts_the_gpu_is_split(tmp_path: Path):
    """A step with more than two images requests 1 PiB here, which the allocator refuses."""
    learner = product.make_learner(GPU, attack=ATTACKS["pgd l2"])
    forward = TrainStep._forward

    def demanding(step: TrainStep, images: Tensor, labels: Tensor, **how: bool) -> Tensor:
        if len(images) > 2:
            torch.empty(2**50, dtype=torch.uint8, device=GPU)
        return forward(step, images, labels, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "_forward", demanding)
        batch = product.make_batch(GPU)
        assert micro_batching.choose_micro_batches(learner, "auto", batch, tmp_path) == 4
        learner.train_batch(*batch)
    assert learner.totals()["num_images"] == product.BATCH_SIZE


RANK = """
import os
from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.profiling.timer import Timer
from harness.system import distributed
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, make_step
from tests.rehearsal import product

group = distributed.from_environment()
with distributed.init_process_group(group, "cuda:0"):
    device = group.device("cuda:0")

    def make_learner():
        model = product.make_model().to(device).train()
        attack = AttackSettings(steps=2, random_start="ball")
        config = StepConfig(0.1, device=device, attack=attack, eps=0.5, num_micro_batches=2)
        optimizer = make_sgd(model, ScheduleSettings(), 0.1)
        learner = make_step(model, optimizer, config, Timer(device), group=group)
        learner.set_rate(1.0)
        return learner

    def weight(learner):
        return float(sum(value.double().sum() for value in learner.model.parameters()))

    images, labels = product.make_batch(device, 16)
    own = slice(group.rank, None, 2)
    learner, resumed = make_learner(), make_learner()
    learner.train_batch(images[own], labels[own])
    resumed.load_state_dict(product.checkpoint_of(learner))
    losses = []
    for each in (learner, resumed):
        each.train_batch(images[own], labels[own])
        totals = each.totals()
        losses.append(totals["loss"])
    num_weights = len(set(group.all_gather(weight(learner))))
    line = f"RANK {group.rank} {int(totals['num_images'])} {num_weights} {losses[0]} {losses[1]}"
    os.write(1, (line + chr(10)).encode())  # one write, so that lines of two ranks do not mix
"""


def test_two_ranks_on_one_gpu_train_one_model(tmp_path: Path):
    """Ranks have equal weights after adversarial steps; a resumed run has the same loss.

    The ranks use gloo, because NCCL refuses two ranks on one GPU.
    """
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # Use the loopback address: without a network, the host name may have no address.
    local = ["--local-addr", "127.0.0.1"]
    launch = ["-m", "torch.distributed.run", "--standalone", *local, "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, *launch, str(script)],
        env=distributed.torchrun_variables()
        | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = sorted(line for line in ended.stdout.splitlines() if line.startswith("RANK"))
    assert len(lines) == 2, ended.stdout + ended.stderr
    assert lines[0].split()[2:] == lines[1].split()[2:]
    _, _, num_images, num_weights, loss, resumed_loss = lines[0].split()
    assert (num_images, num_weights) == ("32", "1"), "two steps of 16 images, one model"
    assert float(loss) == pytest.approx(float(resumed_loss), rel=LOSS)
