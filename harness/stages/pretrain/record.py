"""Record of a pretrain stage. Imports no torch."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores
from harness.train.records import CompileMeasurement, EpochTiming


class Epoch(TypedDict):
    """One epoch of training."""

    epoch: int
    lr: float  # of its first step
    train_loss: float
    train_top1: float
    num_images: int
    num_steps: int
    resolution: int
    val: NotRequired[Scores]  # with `eval_every`


class PretrainMetrics(TypedDict):
    """Metrics of a pretrain stage."""

    val: Scores
    val_of_last_step: Scores | None  # None means the weights are those of the last step
    train_loss: float  # of the last epoch
    epochs: list[Epoch]
    num_classes: int
    num_train_images: int
    num_steps: int
    eps: float  # in [0, 1] pixel units, at `eps_resolution`
    eps_resolution: int
    eps_used: dict[str, float]  # by resolution
    precision: str
    compiled: str
    num_parts: int  # micro-batches per batch
    num_processes: int
    num_parameters: int
    zero_gradients: int
    damaged_checkpoints: list[str]
    epoch_models: NotRequired[list[str]]  # weights after each epoch, with `first_epochs`


class PretrainTiming(TypedDict, total=False):
    """Timing of a pretrain stage, in addition to that of `harness.profiling.timer.summary`."""

    num_restarts: int
    epochs: list[EpochTiming]
    compile: CompileMeasurement
    gpu: dict[str, Any] | None
    trace: str | None  # file in the stage's folder
