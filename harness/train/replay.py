"""Measure the throughput of training without data loading, by repeating one batch."""

import statistics
import time
from itertools import repeat

from torch import Tensor

from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.train.learner import Learner
from harness.train.mode_trials import synchronize

MAX_REPLAY_S = 1.5  # a measurement starts no further steps after this time
MAX_REPLAY_FRACTION = 0.05  # the same, as a fraction of the training time
MIN_REPLAY_STEPS = 3
NUM_REPEATS = 2  # additional measurements if a replay is slower than the training itself


def replay_rate(
    learner: Learner,
    images: Tensor,
    labels: Tensor,
    train_s: float,
    group: ProcessGroup = SINGLE_PROCESS,
    *,
    num_images: int = 0,
) -> float:
    """Measure training throughput without data loading, by repeating one batch.

    If the measured rate is below the rate of the training, the measurement was disturbed, for
    example by another process. It is then repeated twice, and the median of the three rates is
    returned.

    Changes the weights, so call it after the last evaluation.

    Args:
        learner: Learner that has trained.
        images: uint8 [B, 3, R, R], channels_last, on the training device.
        labels: int64 [B], or int8 [B, K] for multi-label targets.
        train_s: Seconds of training so far. A measurement takes about MAX_REPLAY_FRACTION of it,
            or MAX_REPLAY_S if that is less, but always at least MIN_REPLAY_STEPS steps.
        group: Ranks that train together; each repeats its part of the batch.
        num_images: Images that all ranks together trained on in train_s; 0 if unknown.

    Returns:
        Images per second over all ranks.
    """
    images, labels = images.clone(), labels.clone()
    learner.train_batch(images, labels)  # fills caches, and lets cuDNN choose its kernels
    synchronize(images.device)
    rates = [_rate(learner, images, labels, train_s, group)]
    end_to_end = num_images / train_s if train_s > 0 else 0.0
    if group.broadcast(rates[0] < end_to_end):
        rates += [_rate(learner, images, labels, train_s, group) for _ in range(NUM_REPEATS)]
    return statistics.median(rates)


def _rate(
    learner: Learner, images: Tensor, labels: Tensor, train_s: float, group: ProcessGroup
) -> float:
    budget_s = min(MAX_REPLAY_S, MAX_REPLAY_FRACTION * train_s)
    start, num_steps = time.perf_counter(), 0
    while group.broadcast(num_steps < MIN_REPLAY_STEPS or time.perf_counter() - start < budget_s):
        for _ in repeat(None, MIN_REPLAY_STEPS):
            learner.train_batch(images, labels)
        synchronize(images.device)
        num_steps += MIN_REPLAY_STEPS
    return float(num_steps * sum(group.all_gather(len(images))) / (time.perf_counter() - start))
