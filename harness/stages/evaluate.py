"""Evaluates one pretrained model on val: on its own classes, and on those that all subsets share, masked and unmasked.

Unmasked: the model may answer any of its classes. Masked: it decides among the common ones only. The difference is what
it loses to confusion with classes that others were never shown.
"""

import time
from typing import Any

import numpy as np

from harness import model as models
from harness.settings import EvaluateSettings
from harness.stage import Outcome, StageContext
from harness.stages.pretrain import MODEL_FILE
from harness.train import predictions
from harness.train.evaluate import View, evaluate
from harness.train.flip import FlipAverage
from harness.train.plans import eval_plan, split_path
from harness.train.precision import choose
from loaders import open_loader
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Metrics: the common classes; clean and adversarial scores on each view, also class by class; the attack; the file with
    the predictions. Seconds of each pass."""
    config = context.config
    settings = EvaluateSettings.model_validate(config["settings"])
    classes = context.needs["data"].metrics["classes"]
    common = _common_classes(context, classes)
    labels = tuple(classes.index(name) for name in common)
    views = {"own": View(), "common_unmasked": View(labels=labels), "common_masked": View(labels=labels, logits=labels)}
    loaded, _ = models.load(context.need_folders["model"] / MODEL_FILE)
    loaded.to(context.device)
    model = FlipAverage(loaded) if config["flip_tta"] else loaded
    precision = choose("auto", context.device)
    eps = settings.attack.eps_of(config["eps"] or settings.eps_of_clean or 0.0, config["resolution"])
    plan = eval_plan(split_path(context, "data", "val"), settings.batch_size, config["resolution"], config["eval_crop"],
                     context)
    scores: dict[str, Any] = {"clean": None, "adversarial": None}
    per_class: dict[str, Any] = {"classes": classes}
    answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    seconds = {}
    with open_loader(plan) as loader:
        for name in ("clean", "adversarial") if eps > 0 else ("clean",):
            started = time.monotonic()
            counts = evaluate(model, loader, device=context.device, precision=precision,
                              num_classes=len(classes), views=views, eps=eps if name == "adversarial" else 0.0,
                              attack=settings.attack if name == "adversarial" else None, keep_predictions=True)
            scores[name] = {view: count.scores() for view, count in counts.items()}
            per_class["num_images"] = counts["own"].per_class()[1].tolist()
            per_class[name] = {view: count.per_class()[0].tolist() for view, count in counts.items()}
            answers |= {f"{name}_{view}": counts[view].predictions() for view in ("own", "common_masked")}
            seconds[f"{name}_s"] = time.monotonic() - started
        predicted = predictions.save(context.folder, loader, answers)
    attack = None
    if eps > 0:
        attack = {"norm": settings.attack.norm, "eps": eps, "steps": settings.attack.steps,
                  "step_size": settings.attack.step_length(eps), "resolution": config["resolution"]}
    return Outcome({"num_common_classes": len(common), "common_classes": common, **scores, "per_class": per_class,
                    "attack": attack, "precision": precision, "predictions": predicted}, seconds)


def _common_classes(context: StageContext, classes: list[str]) -> list[str]:
    """Classes of every subset, in the order of this model's labels."""
    shared = set(classes)
    for role, result in context.needs.items():
        if role.startswith("common_"):
            shared &= set(result.metrics["classes"])
    if not shared:
        raise UserError("The subsets of this recipe have no class in common to compare their models on.")
    return [name for name in classes if name in shared]
