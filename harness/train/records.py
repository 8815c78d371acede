"""Records of the training loop, part of a stage's result. Imports no torch."""

from typing import NotRequired, Required

from typing_extensions import TypedDict

from harness.matrix.scores import Scores


class EpochTiming(TypedDict):
    """Timing of one pass over the data.

    Attributes:
        train_s: Seconds of training, without checkpoints.
        checkpoint_s: Seconds spent writing checkpoints.
        img_per_s: Images of all ranks divided by `train_s`.
        spans_s: Seconds per phase of a step, such as "forward"; see `profiling.timer.SPANS`.
        percentiles_ms: Percentiles of the time of each phase and of the whole step, in ms.
        eval_s: Seconds of the evaluation after this pass, if there was one.
    """

    train_s: float
    checkpoint_s: float
    img_per_s: float
    spans_s: dict[str, float]
    percentiles_ms: dict[str, dict[str, float]]
    eval_s: NotRequired[float]


class EpochRecord(TypedDict):
    """One pass over the data.

    Attributes:
        epoch: Number of the pass, from 1.
        lr: Learning rate of the first step.
        train_loss: Mean loss in nats.
        train_top1: Fraction of training images, augmented and attacked, that were classified
            correctly.
        num_images: Images trained on, over all ranks.
        num_steps: Training steps, one per batch. Each step of free adversarial training has
            several updates.
        resolution: Side of the images in pixels.
        timing: Seconds and rates.
        val: Scores on val after this pass, if it was evaluated.
    """

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    num_images: int
    num_steps: int
    resolution: int
    timing: EpochTiming
    val: NotRequired[Scores]


class ModeTimes(TypedDict, total=False):
    """Measurements of trial runs in one compile mode, or the reason why it failed.

    Attributes:
        compile_s: Seconds of compilation.
        step_s: Seconds of the fastest of a few runs after compilation.
        deviation: Relative difference from the eager run, see `mode_trials.deviation`.
        failed: Reason why the mode is skipped.
    """

    compile_s: float
    step_s: float
    deviation: float
    failed: str


class CompileMeasurement(TypedDict, total=False):
    """The chosen compile mode, and the measurements of each mode that was tried.

    Attributes:
        chosen: Key of `harness.train.compilation.MODES`. All other fields are named after a key.
    """

    chosen: Required[str]
    eager: ModeTimes
    compiled: ModeTimes
    cuda_graphs: ModeTimes
    captured_attack: ModeTimes
    compiled_captured_attack: ModeTimes
