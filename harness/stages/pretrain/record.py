"""Record of a pretrain stage. Imports no torch."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores
from harness.train.records import CompileMeasurement, EpochTiming


class Epoch(TypedDict):
    """Record of one pass over the training images."""

    epoch: int  # number of the pass, from 1
    lr: float  # learning rate of the first step
    train_loss: float
    train_top1: float  # in [0, 1], on the augmented images
    num_images: int
    num_steps: int
    resolution: int  # side of the images, in pixels
    val: NotRequired[Scores]  # scores after this pass; absent if the model was not evaluated then


class PretrainMetrics(TypedDict):
    """Metrics of a pretrain stage."""

    val: Scores
    val_of_last_step: Scores | None  # None if `val` is already for the last step
    train_loss: float  # mean loss of the last pass
    epochs: list[Epoch]
    num_classes: int
    num_train_images: int
    num_steps: int
    eps: float  # radius at `eps_resolution`, in units of [0, 1] pixels
    eps_resolution: int  # in pixels
    eps_used: dict[str, float]  # resolution -> radius
    precision: str
    compiled: str  # compile mode of the training step
    num_parts: int  # number of micro-batches per batch
    num_processes: int
    num_parameters: int
    zero_gradients: int  # number of input gradients in attacks that were zero everywhere
    damaged_checkpoints: list[str]  # one line per checkpoint that was skipped
    epoch_models: NotRequired[list[str]]  # weights after each epoch; only with `first_epochs`


class PretrainTiming(TypedDict, total=False):
    """Timing of a pretrain stage, in addition to the fields of `profiling.timer.summary`."""

    num_restarts: int
    epochs: list[EpochTiming]
    compile: CompileMeasurement
    gpu: dict[str, Any] | None
    trace: str | None  # name of the file in the stage's folder; None if no steps were traced
