"""Process groups: how ranks share samples, and training that equals that of one process."""

import itertools
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
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.stages.pretrain.learner import _build
from harness.system import distributed
from harness.system.distributed import AsyncFlags, ProcessGroup
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.fit import num_batches
from harness.train.metrics import in_order
from harness.train.step import StepConfig, make_step
from loaders import open_loader
from loaders.augmentations import Augmentations
from loaders.plan import LoaderPlan
from tests.helpers.forked_ranks import ForkedRanks
from tests.helpers.tiny_stages import write_colors

# With batches of 11, the last batch has 5 images: 3 for rank 0 and 2 for rank 1.
NUM_TRAIN = 60
MIXED = Augmentations(mixup=0.4, cutmix=1.0, lighting=0.1)


@pytest.fixture(scope="module")
def beton(root) -> Path:
    written = write_colors(root / "data", splits={"train": NUM_TRAIN // 3})
    return root / "data" / written.metrics["splits"]["train"]["path"]


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
    """Outputs and names of trained parameters are equal, also if BatchNorm's scales are frozen."""
    # The model would move to a GPU, which the test does not need.
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
def test_in_order_restores_the_order_of_a_single_process(world_size, beton):
    plans = [
        LoaderPlan(
            beton,
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
    # The last batch has one image, which rank 0 reads.
    assert in_order(parts).tolist() == list(range(22))


class NetworkWithoutBatchNorm(nn.Module):
    """A small network without BatchNorm, whose statistics per process would change the losses."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 3)
        # Depends on each process's images, as running statistics do.
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        if self.training:
            self.seen += images.mean().detach()
        return self.head(self.convolution(images).relu().mean((2, 3)))


def train_two_epochs(
    beton: Path,
    group: ProcessGroup,
    *,
    parts: int = 1,
    attack: AttackSettings | None = None,
    batch_size: int = 11,
    augmentations: Augmentations | None = None,
) -> dict[str, Any]:
    """Train on random crops, then evaluate; return losses, samples, weights and scores."""
    torch.manual_seed(0)
    model = NetworkWithoutBatchNorm()
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


def _save_result(folder: Path, beton: Path, more: dict[str, Any]) -> None:
    group = distributed.from_environment()
    with distributed.init_process_group(group, "cpu"):
        torch.save(train_two_epochs(beton, group, **more), folder / f"result{group.rank}")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parts": 2},
        {"attack": AttackSettings(steps=2)},
        # The batch size is a multiple of 4, so both images of a mixed pair are on the same rank.
        {"attack": AttackSettings(steps=2), "batch_size": 12, "augmentations": MIXED},
    ],
    ids=["whole batches", "micro-batches", "attack", "mixup and cutmix"],
)
def test_two_processes_train_as_one_process_does(more, beton, tmp_path):
    """Each epoch has each sample once, in the same batches. Results are equal up to rounding."""
    assert ForkedRanks(_save_result, tmp_path, beton, more).codes() == [0, 0]
    two = [torch.load(tmp_path / f"result{rank}", weights_only=False) for rank in range(2)]
    one = train_two_epochs(beton, ProcessGroup(), **more)
    for rank_result in two:
        assert rank_result["samples"] == one["samples"]
        assert sorted(
            itertools.chain(*rank_result["samples"][: len(rank_result["samples"]) // 2])
        ) == list(range(NUM_TRAIN))
        assert [record["num_images"] for record in rank_result["losses"]] == [NUM_TRAIN, NUM_TRAIN]
        for ours, theirs in zip(rank_result["losses"], one["losses"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
            assert ours["top1"] == theirs["top1"]
        # Gradients are summed in another order. The largest difference seen was 8e-8.
        np.testing.assert_allclose(rank_result["weights"], one["weights"], rtol=0, atol=2e-6)
        assert rank_result["predictions"] == one["predictions"]
        assert rank_result["per_class"] == one["per_class"]
        assert rank_result["scores"]["num_images"] == NUM_TRAIN
        assert rank_result["scores"]["num_correct"] == one["scores"]["num_correct"]
    assert two[0]["weights"].tobytes() == two[1]["weights"].tobytes()
    assert two[0]["seen"] == two[1]["seen"]
