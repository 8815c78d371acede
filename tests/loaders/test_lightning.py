"""A loader as the data of PyTorch Lightning's Trainer: epochs, and resumption within one."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from loaders import Augmentations, Loader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("pytorch_lightning")

SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "resolution": 16,
    "order": "random",
    "augment": "random_resized_crop",
    "horizontal_flip": True,
    "seed": 3,
    "num_workers": 1,
    "augmentations": Augmentations(mixup=0.4, lighting=0.1),
}


class Learner(lightning.LightningModule):
    """A linear classifier that records the sum of the pixels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3 * 16 * 16, 4)
        self.seen: list[int] = []

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        images, labels = batch
        self.seen.append(int(images.long().sum()))
        return torch.nn.functional.cross_entropy(self.linear(images.flatten(1) / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, **settings: Any) -> Any:
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def expected_sums(path: Path, epochs: int) -> list[int]:
    with Loader(path, **SETTINGS) as loader:
        return [int(images.long().sum()) for _ in range(epochs) for images, _ in loader]


@pytest.mark.filterwarnings("ignore")
def test_epochs_of_the_trainer_are_those_of_the_loader(betons, tmp_path):
    learner = Learner()
    with Loader(betons["jpeg"], **SETTINGS) as loader:
        trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(learner, loader)
    assert learner.seen == expected_sums(betons["jpeg"], 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_steps", [3, 5, 7])
def test_a_run_from_a_checkpoint_continues_with_the_next_batch(betons, tmp_path, num_steps):
    first = Learner()
    save = lightning.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=num_steps, save_top_k=-1
    )
    with Loader(betons["jpeg"], **SETTINGS) as loader:
        trainer(tmp_path, max_epochs=3, callbacks=[save]).fit(first, loader)
    second = Learner()
    with Loader(betons["jpeg"], **SETTINGS) as loader:
        continued = trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
        continued.fit(
            second, loader, ckpt_path=tmp_path / f"step={num_steps}.ckpt", weights_only=False
        )
    assert first.seen == expected_sums(betons["jpeg"], 3)
    assert second.seen == first.seen[num_steps:]
    assert torch.equal(second.linear.weight, first.linear.weight)
