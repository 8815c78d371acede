"""Time steps of a network on noise, with the code and on the device of the stages.

A step of `harness.matrix.workload` is built with random weights, or with those of an existing
model. After one step to warm up, the median of NUM_TIMED steps counts. No data are loaded, and only
the time is kept.
"""

import gc
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config import grid
from harness.config.attack import EvaluationAttack
from harness.config.methods import settings_model
from harness.config.model import ModelSettings
from harness.config.train import PretrainSettings, TrainSettings
from harness.config.transfer import TransferSettings
from harness.modeling import classifier, pretrained
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import cudnn_benchmark, eval_mode
from harness.modeling.precision import autocast, choose
from harness.profiling.timer import Timer
from harness.runner.context import StageContext
from harness.stages.pretrain.learner import new_learner
from harness.system.folders import Folders
from harness.system.gpu import select_gpu
from harness.system.out_of_memory import is_out_of_memory
from harness.train.autotune import choose_compile_mode, noise_batch
from harness.train.evaluation_attack import AttackPlan, choose_attack_mode
from harness.train.learner import Learner
from harness.train.micro_batching import choose_micro_batches
from harness.train.mode_trials import NUM_TIMED, synchronize, time_step
from harness.train.step import TrainStep
from harness.transfer import method
from harness.transfer.method import TransferSetup
from harness.transfer.methods._network_settings import NetworkSettings
from loaders.augmentations.batch import Stream, augment
from writers.errors import UserError

JSON = dict[str, Any]
# The head takes a negligible part of a step.
NUM_CLASSES = 100
# The time of an attack does not depend on its radius.
EPS = 1.0
STEPS_PER_EPOCH = 100


def measure(
    steps: Sequence[JSON], folders: Folders, *, device: str, num_threads: int
) -> Iterator[tuple[JSON, float | str]]:
    """Time each step.

    Args:
        steps: Steps of `harness.matrix.workload`, as JSON objects.
        folders: Folders with data and weights.
        device: Device of the steps.
        num_threads: Number of CPU threads.

    Yields:
        Each step with its seconds, or with the reason why it cannot be timed, such as missing
        memory or weights.

    Raises:
        UserError: torch cannot use the device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"torch {torch.__version__} cannot use the GPU.",
            "Install a torch built for the driver's CUDA version.",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        select_gpu(device)
        with tempfile.TemporaryDirectory() as scratch, cudnn_benchmark(device):
            context = StageContext(
                config={},
                folder=Path(scratch),
                needs={},
                need_folders={},
                data=folders.data,
                raw=folders.raw,
                num_threads=num_threads,
                device=device,
            )
            for step in steps:
                yield step, _seconds(step, context)
                gc.collect()
                if device.startswith("cuda"):
                    torch.cuda.empty_cache()
    finally:
        torch.set_num_threads(before)


def _seconds(step: JSON, context: StageContext) -> float | str:
    try:
        with _STEPS[step["step"]](step, context) as run_step:
            run_step()
            synchronize(context.device)
            return statistics.median(time_step(run_step, context.device) for _ in range(NUM_TIMED))
    except UserError as error:
        return error.message
    except Exception as error:  # networks of other libraries raise anything; plan without this step
        if is_out_of_memory(error):
            return "there is not enough memory"
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


@contextmanager
def _pretrain(step: JSON, context: StageContext) -> Iterator[Callable[[], None]]:
    settings = PretrainSettings.model_validate(step["settings"])
    context = replace(
        context, config={"arch": step["arch"], "seed": 0, "eps": EPS if step["attacked"] else 0.0}
    )
    batch = noise_batch(settings.batch_size, settings.resolution, NUM_CLASSES, context.device)
    learner = new_learner(context, settings, NUM_CLASSES, Timer(context.device))
    choose_micro_batches(learner, settings.accumulate, batch, context.folder)
    choose_compile_mode(learner, batch, settings.compile, context.device)
    yield _augmented(learner, batch, settings)


@contextmanager
def _transfer(step: JSON, context: StageContext) -> Iterator[Callable[[], None]]:
    rates = [1e-3 / number for number in range(1, step["num_trials"] + 1)]
    settings = settings_model(step["method"]).model_validate({**step["settings"], "lrs": rates})
    assert isinstance(settings, TransferSettings)
    precision = choose(settings.precision, context.device)

    def load() -> Classifier:
        model = _model(step["model"], context)[0]
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
    yield _augmented(learner, batch, settings)


def _augmented(
    learner: Learner, batch: tuple[Tensor, Tensor], settings: TrainSettings
) -> Callable[[], None]:
    """Return a function that augments a batch, as the settings do, and takes a step."""
    augmentations, ids = settings.augment, np.arange(len(batch[1]), dtype=np.uint64)
    if augmentations is None:
        return lambda: learner.train_batch(*batch)

    def run_step() -> None:
        stream = Stream(0, 0, ids)
        learner.train_batch(*augment(*batch, augmentations, stream, NUM_CLASSES))

    return run_step


@contextmanager
def _look(step: JSON, context: StageContext) -> Iterator[Callable[[], None]]:
    model, own_resolution = _model(step["model"], context)
    resolution = model.fixed_size or step["resolution"] or own_resolution
    assert resolution is not None
    images, _ = noise_batch(step["batch_size"], resolution, NUM_CLASSES, context.device)
    precision = choose(step["precision"], context.device)
    with eval_mode(model), torch.inference_mode(), autocast(precision, context.device, model):
        yield lambda: model(images)


@contextmanager
def _attack(step: JSON, context: StageContext) -> Iterator[Callable[[], None]]:
    model, _ = _model(step["model"], context)
    images, labels = noise_batch(
        step["batch_size"], step["resolution"], NUM_CLASSES, context.device
    )
    attack, precision = (
        EvaluationAttack.model_validate(step["attack"]),
        choose(step["precision"], context.device),
    )
    plan = AttackPlan(
        attack,
        attack.eps_of(EPS, step["resolution"]),
        precision,
        context.device,
        batch_size=len(labels),
    )
    with eval_mode(model):
        measured = choose_attack_mode(
            [model], (images, [labels]), plan, step.get("compile", "off"), context.folder
        )
        attack_images = replace(plan, compile_mode=measured["chosen"]).attack_on(model)

        def run_step() -> None:
            attacked = attack_images(images, labels)
            with torch.inference_mode(), autocast(precision, context.device, model):
                model(attacked)

        yield run_step


_STEPS = {"pretrain": _pretrain, "transfer": _transfer, "look": _look, "attack": _attack}


def _model(about: JSON, context: StageContext) -> tuple[Classifier, int | None]:
    """Build a model on the device.

    Returns:
        The model and its own resolution in pixels, None if it has none.

    Raises:
        UserError: Its weights are missing.
    """
    if "model" in about:
        adopted = pretrained.load_pretrained(
            ModelSettings.model_validate(about["model"]),
            context.raw / Path(about["weights_dir"] or "").expanduser(),
        )
        return adopted.model.to(context.device), adopted.about["resolution"]
    channels = tuple(about["channels"]) if about["channels"] else None
    model = classifier.build(
        about["arch"],
        NUM_CLASSES,
        channels=channels,
        blur_pool=about["blur_pool"],
        batch_norm_scale=about["batch_norm_scale"],
    )
    return model.to(context.device), None
