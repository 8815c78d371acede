"""Steps of an evaluate stage for `harness plan --calibrate` to time (see `_timed_steps`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from harness.config.attack import EvaluationAttack
from harness.modeling.module_modes import eval_mode
from harness.modeling.precision import autocast, choose
from harness.runner.context import StageContext
from harness.stages._timed_steps import EPS, JSON, NUM_CLASSES, RunStep, TimedStep, load_model
from harness.train.autotune import noise_batch
from harness.train.evaluation_attack import AttackPlan, choose_attack_mode


@contextmanager
def attacked_batch(step: JSON, context: StageContext) -> Iterator[RunStep]:
    """Prepare a step: attack a batch and compute the logits of the attacked images."""
    model, _ = load_model(step["model"], context)
    images, labels = noise_batch(
        step["batch_size"], step["resolution"], NUM_CLASSES, context.device
    )
    attack = EvaluationAttack.model_validate(step["attack"])
    precision = choose(step["precision"], context.device)
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


STEPS: Mapping[str, TimedStep] = {"attack": attacked_batch}
