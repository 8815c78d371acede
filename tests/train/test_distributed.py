"""Two processes train one stage over gloo: samples and losses of one process, a common end."""

import importlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.config.attack import AttackSettings
from harness.config.train import PretrainSettings
from harness.matrix.stage import key_of
from harness.matrix.stage_kind import find
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.runner import result, worker
from harness.stages.pretrain.learner import _build
from harness.system import distributed
from harness.system.atomic_write import write_json
from harness.system.distributed import AsyncFlags, ProcessGroup
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.fit import num_batches
from harness.train.metrics import in_order
from harness.train.step import StepConfig, make_step
from loaders import open_loader
from loaders.augmentations import Augmentations
from loaders.plan import LoaderPlan
from tests.helpers.execution import wait_for
from tests.helpers.tiny_stages import PRETRAIN, SPLITS, as_result, write_colors

# 60: of batches of 11, the last has 5 images, 3 + 2 for two processes.
NUM_TRAIN = 3 * SPLITS["train"]
MIXED = Augmentations(mixup=0.4, cutmix=1.0, lighting=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def written(data) -> result.Result:
    return write_colors(data)


# Several ranks, simulated in one process


def test_without_torchrun_there_is_one_process():
    assert distributed.from_environment({}) == ProcessGroup()
    assert distributed.from_environment({"WORLD_SIZE": "1", "RANK": "0"}) == ProcessGroup()
    group = distributed.from_environment(
        {"WORLD_SIZE": "8", "RANK": "6", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"}
    )
    assert group == ProcessGroup(6, 8, 2, 4) and not group.is_main
    assert group.device("cuda:0") == "cuda:2"
    assert group.device("cpu") == "cpu"
    assert ProcessGroup().device("cuda:0") == "cuda:0"
    assert ProcessGroup().broadcast(3) == 3
    assert ProcessGroup().all_gather(3) == [3]
    assert AsyncFlags(ProcessGroup()).reduce(True, False) == (True, False)


@pytest.mark.parametrize("arch", ["resnet10", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("batch_norm_scale", [True, False])
def test_sync_batch_norm_keeps_the_network(arch, batch_norm_scale, monkeypatch):
    """Except for statistics: activations inside BatchNorm modules, scales that do not train."""
    # There is no GPU.
    monkeypatch.setattr(classifier.Classifier, "to", lambda model, *args, **more: model)
    logits, trained = [], []
    for group in (ProcessGroup(), ProcessGroup(0, 2)):
        context: Any = SimpleNamespace(
            config={"arch": arch, "seed": 0}, group=group, device="cuda:0"
        )
        model = _build(
            context, PretrainSettings(sync_batch_norm=True, batch_norm_scale=batch_norm_scale), 3
        ).eval()
        assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == (
            group.world_size > 1
        )
        logits.append(model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))))
        trained.append([name for name, _ in model.named_parameters()])
    assert torch.equal(*logits) and trained[0] == trained[1]


@pytest.mark.parametrize(
    ("num_samples", "world_size", "steps"),
    [(60, 1, 5), (57, 1, 4), (58, 1, 5), (60, 2, 5), (59, 2, 4), (60, 3, 4), (62, 3, 5), (3, 1, 1)],
)
def test_a_last_batch_needs_two_images_in_each_process(num_samples, world_size, steps):
    plan = LoaderPlan(Path("x"), 14, 24, world_size=world_size)
    assert num_batches(plan, num_samples) == steps


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_in_order_restores_the_order_of_a_single_process(world_size, data):
    plans = [
        LoaderPlan(
            data / "colors" / "train.beton",
            7,
            24,
            rank=rank,
            world_size=world_size,
            indices=range(22),
        )
        for rank in range(world_size)
    ]
    parts = [
        [torch.from_numpy(part) for part in open_loader(plan).samples.batches(plan, 0)]
        for plan in plans
    ]
    # The last batch, of one image, is the first rank's.
    assert in_order(parts).tolist() == list(range(22))


# Two processes on this machine


class Plain(nn.Module):
    """A network without BatchNorm, whose statistics per process would make losses differ."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 3)
        # Like running statistics: depends on each process's images.
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        if self.training:
            self.seen += images.mean().detach()
        return self.head(self.convolution(images).relu().mean((2, 3)))


def train_plainly(
    beton: Path,
    group: ProcessGroup,
    *,
    parts: int = 1,
    attack: AttackSettings | None = None,
    batch_size: int = 11,
    augmentations: Augmentations | None = None,
) -> dict[str, Any]:
    """Train for two passes; return losses, samples, weights and scores."""
    torch.manual_seed(0)
    model = Plain()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    config = StepConfig(
        0.1,
        label_smoothing=0.1,
        attack=attack,
        eps=0.5 if attack else 0.0,
        num_micro_batches=parts,
    )
    step = make_step(model.train(), optimizer, config, Timer("cpu"), group=group)
    plan = LoaderPlan(
        beton,
        batch_size,
        24,
        augment="random_resized_crop",
        order="random",
        seed=3,
        augmentations=augmentations,
        rank=group.rank,
        world_size=group.world_size,
    )
    losses, samples = [], []
    with open_loader(plan) as loader:
        for epoch in range(2):
            samples += [
                loader.samples.indices[batch].tolist()
                for batch in loader.samples.batches(plan, epoch)
            ]
            for images, labels in loader.epoch(epoch):
                step.train_batch(images, labels)
            losses.append(step.totals())
    with open_loader(replace(plan, augmentations=None)) as loader:
        counts = evaluate(
            model,
            loader,
            EvaluationPlan(
                device="cpu", precision="float32", num_classes=3, views={"own": View()}, group=group
            ),
            keep_predictions=True,
        )["own"]
    gathered = [[torch.tensor(batch) for batch in of_rank] for of_rank in group.all_gather(samples)]
    return {
        "losses": losses,
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).numpy(),
        "seen": float(model.seen),
        "samples": [sorted(torch.cat(batch).tolist()) for batch in zip(*gathered, strict=True)],
        "scores": counts.scores(),
        "predictions": counts.predictions()[0].tolist(),
        "per_class": counts.per_class()[1].tolist(),
    }


class Group:
    """Forked processes, which share this one's imports."""

    def __init__(self, job: Callable[..., Any], *arguments: Any, num_processes: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("fork")
        self.processes = [
            context.Process(target=_become, args=(rank, num_processes, port, job, arguments))
            for rank in range(num_processes)
        ]
        for process in self.processes:
            process.start()

    def codes(self) -> list[int | None]:
        """Wait for four minutes at most and return the exit codes."""
        for process in self.processes:
            process.join(240)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes


def _become(
    rank: int, num: int, port: int, job: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(num),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    job(*arguments)


def _save_result(folder: Path, beton: Path, more: dict[str, Any]) -> None:
    group = distributed.from_environment()
    with distributed.init_process_group(group, "cpu"):
        torch.save(train_plainly(beton, group, **more), folder / f"result{group.rank}")


pytestmark = [
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parts": 2},
        {"attack": AttackSettings(steps=2)},
        # Partners are on the same rank: twice the number of processes divides the batch size.
        {"attack": AttackSettings(steps=2), "batch_size": 12, "augmentations": MIXED},
    ],
    ids=["whole", "parts", "attacked", "mixed"],
)
def test_two_processes_train_like_one(more, data, tmp_path):
    """Each sample once per epoch, in the same batches; losses and weights equal up to rounding."""
    beton = data / "colors" / "train.beton"
    assert Group(_save_result, tmp_path, beton, more).codes() == [0, 0]
    two = [torch.load(tmp_path / f"result{rank}", weights_only=False) for rank in range(2)]
    one = train_plainly(beton, ProcessGroup(), **more)
    for rank_result in two:
        assert rank_result["samples"] == one["samples"]
        assert sorted(
            itertools.chain(*rank_result["samples"][: len(rank_result["samples"]) // 2])
        ) == list(range(NUM_TRAIN))
        assert [record["num_images"] for record in rank_result["losses"]] == [NUM_TRAIN, NUM_TRAIN]
        for ours, theirs in zip(rank_result["losses"], one["losses"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
            assert ours["top1"] == theirs["top1"]
        # Gradients add in another order: 8e-8 at most.
        np.testing.assert_allclose(rank_result["weights"], one["weights"], rtol=0, atol=2e-6)
        assert rank_result["predictions"] == one["predictions"]
        assert rank_result["per_class"] == one["per_class"]
        assert rank_result["scores"]["num_images"] == NUM_TRAIN
        assert rank_result["scores"]["num_correct"] == one["scores"]["num_correct"]
    assert two[0]["weights"].tobytes() == two[1]["weights"].tobytes()
    assert two[0]["seen"] == two[1]["seen"]


# A stage


SETTINGS = {
    **PRETRAIN,
    "epochs": 2,
    "batch_size": 11,
    "ema_decay": 0.9,
    "attack": {"steps": 1, "random_start": "ball"},
}


def make_stage(runs: Path, written: result.Result, **settings: Any) -> Path:
    """Create a finished write stage and a robust pretrain stage; return the latter's folder."""
    config = {"arch": "resnet10", "eps": 0.5, "seed": 0, "settings": {**SETTINGS, **settings}}
    folder = (
        runs
        / "stages"
        / "pretrain"
        / key_of("pretrain", find("pretrain").version, config, {"data": written.key})
    )
    result.save(written, runs / "stages" / "write" / written.key)
    write_json(
        folder / "stage.json",
        {
            "kind": "pretrain",
            "key": folder.name,
            "name": "pretrain",
            "axes": {},
            "needs": {"data": {"kind": "write", "key": written.key}},
            "config": config,
        },
    )
    return folder


def run_worker(folder: Path, data: Path, pause_s: float = 0.0, *more: str) -> None:
    """Run a worker as one process of a group. pause_s: pause per step, to allow a stop midway."""
    for place, name in (
        ("harness.profiling.trace.StepTrace", "after_step"),
        ("harness.stages._progress.PassProgress", "__call__"),
    ):
        pause_after(place, name, folder, pause_s)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - the worker redirects it
    sys.argv = [
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(data),
        "--threads",
        "1",
        *more,
    ]
    worker.main()


def pause_after(place: str, name: str, folder: Path, pause_s: float) -> None:
    module, _, owner = place.rpartition(".")
    owner = getattr(importlib.import_module(module), owner)
    original = getattr(owner, name)

    def paused(*arguments: Any) -> None:
        original(*arguments)
        (folder / f"step{os.environ['RANK']}").touch()
        time.sleep(pause_s)

    setattr(owner, name, paused)


def metrics_of(folder: Path) -> dict[str, Any]:
    stage_result = result.load(folder)
    assert stage_result is not None, [path.read_text() for path in folder.glob("*.txt")]
    return {
        key: value
        for key, value in stage_result.metrics.items()
        if key not in ("damaged_checkpoints",)
    }


def test_a_stage_in_two_processes_resumes_exactly(data, written, tmp_path):
    whole, stopped = (
        make_stage(tmp_path / "whole", written),
        make_stage(tmp_path / "stopped", written),
    )
    assert Group(run_worker, whole, data).codes() == [0, 0]
    group = Group(run_worker, stopped, data, 0.3)
    wait_for((stopped / "step1").exists)
    os.kill(group.processes[1].pid, signal.SIGTERM)  # the rank that does not write
    assert group.codes() == [75, 75]
    assert list((stopped / "checkpoints").glob("*.pt")) and not (stopped / "error.txt").exists()
    assert Group(run_worker, stopped, data).codes() == [0, 0]
    assert metrics_of(stopped) == metrics_of(whole)
    weights = [
        torch.load(folder / "model.pt", weights_only=True)["state_dict"]
        for folder in (whole, stopped)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    stage_result = result.load(stopped)
    assert stage_result.metrics["num_processes"] == 2
    assert stage_result.metrics["val"]["num_images"] == 3 * SPLITS["val"]
    assert stage_result.timing["num_restarts"] == 1
    assert "6 of the 11 images" in (whole / "log.txt").read_text()
    assert "5 of the 11 images" in (whole / "log.rank1.txt").read_text()


def make_evaluation(runs: Path, written: result.Result, batch_size: int) -> Path:
    """Return the folder of an evaluate stage with its model; the same at each call."""
    torch.manual_seed(0)
    trained = make_stage(runs, written)
    classifier.save(
        trained / "model.pt",
        classifier.build("resnet10", 3, channels=(16, 16, 16, 16)),
        {"arch": "resnet10", "channels": [16, 16, 16, 16]},
    )
    result.save(as_result("pretrain", {}).model_copy(update={"key": trained.name}), trained)
    data_need = {"kind": "write", "key": written.key}
    needs = {
        "model": {"kind": "pretrain", "key": trained.name},
        "data": data_need,
        "common_0": data_need,
    }
    config = {
        "settings": {"batch_size": batch_size},
        "eps": 0.5,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "float32",
        "flip_tta": False,
    }
    key = key_of(
        "evaluate",
        find("evaluate").version,
        config,
        {role: need["key"] for role, need in needs.items()},
    )
    folder = runs / "stages" / "evaluate" / key
    write_json(
        folder / "stage.json",
        {
            "kind": "evaluate",
            "key": key,
            "name": "evaluate",
            "axes": {},
            "needs": needs,
            "config": config,
        },
    )
    return folder


def test_two_processes_stop_evaluating_after_the_same_batch(data, written, tmp_path):
    folder = make_evaluation(tmp_path, written, 3)
    group = Group(run_worker, folder, data, 0.3)
    wait_for((folder / "step1").exists)
    os.kill(group.processes[1].pid, signal.SIGTERM)  # the rank that does not write
    assert group.codes() == [75, 75]
    assert result.load(folder) is None and not (folder / "error.txt").exists()


@pytest.mark.parametrize("batch_size", [7, 23])
def test_two_processes_evaluate_each_image_once_like_one(batch_size, data, written, tmp_path):
    """24 images in batches of 7 (4 + 3, at last 2 + 1) and of 23 (rank 1 has one batch less)."""
    one, two = (make_evaluation(tmp_path / name, written, batch_size) for name in ("one", "two"))
    assert Group(run_worker, one, data, num_processes=1).codes() == [0]
    assert Group(run_worker, two, data).codes() == [0, 0]
    ours, theirs = (result.load(folder) for folder in (two, one))
    assert ours.metrics["clean"]["own"]["num_images"] == 3 * SPLITS["val"]
    for name in ("clean", "adversarial"):
        scores, expected = ours.metrics[name]["own"], theirs.metrics[name]["own"]
        assert scores == pytest.approx(expected, rel=1e-6)
        assert scores["num_correct"] == expected["num_correct"]
        assert ours.metrics["per_class"][name] == theirs.metrics["per_class"][name]
    arrays, expected = (np.load(folder / ours.metrics["predictions"]) for folder in (two, one))
    assert arrays.files == expected.files
    assert all((arrays[name] == expected[name]).all() for name in arrays.files)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_with_an_error(victim, data, written, tmp_path):
    folder = make_stage(tmp_path, written)
    group = Group(run_worker, folder, data, 0.3)
    wait_for((folder / f"step{victim}").exists)
    group.processes[victim].kill()
    codes = group.codes()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    assert "lost another one" in (folder / "error.txt").read_text() and result.load(folder) is None


def test_a_user_error_is_reported_once_and_ends_all(data, written, tmp_path):
    folder = make_stage(tmp_path, written, sync_batch_norm=True)
    assert Group(run_worker, folder, data).codes() == [1, 1]
    assert "sync_batch_norm needs GPUs" in (folder / "error.txt").read_text()
