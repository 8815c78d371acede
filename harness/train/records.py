"""Records of the training loop, part of a stage's result. Imports no torch."""

from typing import NotRequired, Required

from typing_extensions import TypedDict

from harness.matrix.scores import Scores


class EpochTiming(TypedDict):
    """Timing of one pass over the data.

    Attributes:
        train_s: Seconds of training, without checkpoints.
        checkpoint_s: Seconds spent writing checkpoints.
        img_per_s: Images per second of `train_s`, over all ranks.
        spans_s: Seconds per phase, see `harness.profiling.timer.SPANS`.
        percentiles_ms: Percentiles per phase and of the whole step, in ms.
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
        train_top1: Fraction of training images classified correctly, as trained on.
        num_images: Images of all ranks.
        num_steps: Optimizer steps.
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
    """Measurements of trial runs in one compile mode: times, or the reason of a failure.

    Attributes:
        compile_s: Seconds of compilation.
        step_s: Seconds of a run afterwards, the shortest of a few.
        deviation: From the eager run, as a fraction.
        failed: Why the mode is skipped.
    """

    compile_s: float
    step_s: float
    deviation: float
    failed: str


class CompileMeasurement(TypedDict, total=False):
    """Trial runs of the compile modes that were tried, and the chosen mode.

    Attributes:
        chosen: Key of `harness.train.compilation.MODES`.
    """

    chosen: Required[str]
    eager: ModeTimes
    compiled: ModeTimes
    cuda_graphs: ModeTimes
    captured_attack: ModeTimes
    compiled_captured_attack: ModeTimes
