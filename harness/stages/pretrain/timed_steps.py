"""Steps of a pretrain stage for `harness plan --calibrate` to time (see `_timed_steps`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from harness.config.train import PretrainSettings
from harness.profiling.timer import Timer
from harness.runner.context import StageContext
from harness.stages._timed_steps import EPS, JSON, NUM_CLASSES, RunStep, TimedStep
from harness.stages.pretrain.learner import new_learner
from harness.train.autotune import augmented_step, choose_compile_mode, noise_batch
from harness.train.micro_batching import choose_micro_batches


@contextmanager
def training_step(step: JSON, context: StageContext) -> Iterator[RunStep]:
    """Prepare a training step of a network with random weights."""
    settings = PretrainSettings.model_validate(step["settings"])
    context = replace(
        context, config={"arch": step["arch"], "seed": 0, "eps": EPS if step["attacked"] else 0.0}
    )
    batch = noise_batch(settings.batch_size, settings.resolution, NUM_CLASSES, context.device)
    learner = new_learner(context, settings, NUM_CLASSES, Timer(context.device))
    choose_micro_batches(learner, settings.accumulate, batch, context.folder)
    choose_compile_mode(learner, batch, settings.compile, context.device)
    yield augmented_step(learner, batch, settings.augment, NUM_CLASSES)


STEPS: Mapping[str, TimedStep] = {"pretrain": training_step}
