"""Full-network transfer: every weight trains, from the source's, under a new head. Each rate of the grid in turn."""

from collections.abc import Iterator
from functools import partial

from harness.method import BnStats, Setup, set_train_mode
from harness.train.trainee import ModelTrainee

DEFAULT_BN_STATS: BnStats = "update"


def trainees(setup: Setup) -> Iterator[ModelTrainee]:
    for lr in setup.settings.lrs:
        model = setup.load()
        yield ModelTrainee(model, setup.settings.optimizer, lr, device=setup.device, precision=setup.precision,
                           label_smoothing=setup.settings.label_smoothing, timer=setup.timer,
                           train_mode=partial(set_train_mode, model, setup.bn_stats))
