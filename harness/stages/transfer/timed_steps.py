"""Steps of a transfer stage for `harness plan --calibrate` to time (see `_timed_steps`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from harness.config import grid
from harness.config.methods import settings_model
from harness.config.transfer import TransferSettings
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import eval_mode
from harness.modeling.precision import autocast, choose
from harness.profiling.timer import Timer
from harness.runner.context import StageContext
from harness.stages._timed_steps import JSON, NUM_CLASSES, RunStep, TimedStep, load_model
from harness.train.autotune import augmented_step, noise_batch
from harness.train.micro_batching import choose_micro_batches
from harness.train.optimizer import make_sgd
from harness.train.step import TrainStep
from harness.transfer import method
from harness.transfer.method import TransferSetup
from harness.transfer.methods._network_settings import NetworkSettings

STEPS_PER_EPOCH = 100  # sets BatchNorm's momentum only, which does not change the time of a step
NUM_BOX_CLASSES = 20  # as in VOC


@contextmanager
def training_step(step: JSON, context: StageContext) -> Iterator[RunStep]:
    """Prepare a training step of a method that trains `num_trials` points of a grid at once."""
    rates = [1e-3 / number for number in range(1, step["num_trials"] + 1)]
    settings = settings_model(step["method"]).model_validate({**step["settings"], "lrs": rates})
    assert isinstance(settings, TransferSettings)
    precision = choose(settings.precision, context.device)

    def load() -> Classifier:
        model = load_model(step["model"], context)[0]
        classifier.replace_head(model, NUM_CLASSES, torch.Generator().manual_seed(0))
        return model

    settings = settings.model_copy(update={"resolution": load().fixed_size or settings.resolution})
    batch = noise_batch(settings.batch_size, settings.resolution, NUM_CLASSES, context.device)
    setup = TransferSetup(
        load,
        load,
        settings,
        settings.bn_stats,
        STEPS_PER_EPOCH,
        context.device,
        precision,
        Timer(context.device),
    )
    learner = method.find(step["method"]).candidates(setup, grid.trials(settings)).learner
    if isinstance(learner, TrainStep) and isinstance(settings, NetworkSettings):
        choose_micro_batches(learner, settings.accumulate, batch, context.folder)
    yield augmented_step(learner, batch, settings.augment, NUM_CLASSES)


@contextmanager
def detection_step(step: JSON, context: StageContext) -> Iterator[RunStep]:
    """Prepare a detector's training step or evaluation on noise, with three boxes per image."""
    from harness.transfer.methods.detection.network import Detector
    from harness.transfer.methods.detection.settings import DetectionSettings
    from harness.transfer.methods.detection.step import DetectionStep

    settings = DetectionSettings.model_validate({**step["settings"], "method": step["method"]})
    precision = choose(settings.precision, context.device)
    model = Detector(load_model(step["model"], context)[0], NUM_BOX_CLASSES, settings)
    model.to(context.device)
    height, width = settings.short_side, min(settings.long_side, settings.short_side * 4 // 3)
    images = list(noise_batch(settings.batch_size, width, 1, context.device)[0][:, :, :height])
    if step["step"] == "detection":
        with eval_mode(model), torch.inference_mode(), autocast(precision, context.device, model):
            yield lambda: model(images)
        return
    sides = torch.tensor([[0.1, 0.1, 0.4, 0.6], [0.3, 0.2, 0.9, 0.8], [0.5, 0.5, 0.7, 0.7]])
    target = {
        "boxes": (sides * torch.tensor([width, height] * 2)).to(context.device),
        "labels": torch.ones(len(sides), dtype=torch.int64, device=context.device),
    }
    learner = DetectionStep(
        model.train(),
        make_sgd(model, settings.optimizer, 1e-3),
        peak_lr=1e-3,
        device=context.device,
        precision=precision,
        timer=Timer(context.device),
    )
    yield lambda: learner.train_batch(images, [target] * len(images))


STEPS: Mapping[str, TimedStep] = {
    "transfer": training_step,
    "detection_training": detection_step,
    "detection": detection_step,
}
