"""Find the steps that `harness plan --calibrate` times with the stages' own code and device.

A workload that `StageKind.workloads` yields describes its step in the field `step`. The module
`timed_steps.py` of a kind has a dictionary `STEPS` from the names of steps to functions. Such a
function takes (step, context) and returns a context manager. The value of its `with` block is a
function without arguments, which runs one step on random inputs. The step `forward`, which several
kinds have, is defined in this module.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.config.model import ModelSettings
from harness.matrix.stage_kind import STAGES_PACKAGE
from harness.modeling import classifier, pretrained
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import eval_mode
from harness.modeling.precision import autocast, choose
from harness.runner.context import StageContext
from harness.train.autotune import noise_batch
from writers import names

JSON = dict[str, Any]
RunStep = Callable[[], None]
TimedStep = Callable[[JSON, StageContext], AbstractContextManager[RunStep]]
# The number of classes may differ from the stage's: the head takes a negligible part of a step.
NUM_CLASSES = 100
# The radius may differ from the stage's: the time of an attack does not depend on it.
EPS = 1.0


def find_step(name: str) -> TimedStep:
    """Return the function that prepares a step.

    Raises:
        UserError: No kind of stage has this step. The message lists similar names.
    """
    steps: dict[str, TimedStep] = dict(STEPS)
    for kind in names.names(STAGES_PACKAGE):
        module = f"{STAGES_PACKAGE}.{kind}.timed_steps"
        if importlib.util.find_spec(module) is not None:
            steps |= importlib.import_module(module).STEPS
    if name not in steps:
        raise names.unknown("step", name, steps)
    return steps[name]


@contextmanager
def forward_pass(step: JSON, context: StageContext) -> Iterator[RunStep]:
    """Prepare a step: a forward pass of a batch."""
    model, own_resolution = load_model(step["model"], context)
    resolution = model.fixed_size or step["resolution"] or own_resolution
    assert resolution is not None
    images, _ = noise_batch(step["batch_size"], resolution, NUM_CLASSES, context.device)
    precision = choose(step["precision"], context.device)
    with eval_mode(model), torch.inference_mode(), autocast(precision, context.device, model):
        yield lambda: model(images)


def load_model(about: JSON, context: StageContext) -> tuple[Classifier, int | None]:
    """Build the model that a workload describes, on the device.

    Returns:
        The model, and the resolution in pixels that its weights were trained for; None if the
        weights are random.

    Raises:
        UserError: The weights are missing.
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


STEPS: Mapping[str, TimedStep] = {"forward": forward_pass}
