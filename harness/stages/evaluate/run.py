"""Evaluates one pretrained model on val: on its own classes, and on those that all subsets share, masked and unmasked.

Unmasked: the model may answer any of its classes. Masked: it decides among the common ones only. The difference is what
it loses to confusion with classes that others were never shown. A model that lacks one of the common classes is seen on its
own alone. Where a subset of the recipe has coarser labels, a model of finer ones is scored on those, too.
"""

import time
from typing import Any, Literal

import numpy as np
import torch

from harness.config.recipe import EvaluateSettings
from harness.modeling import classifier as models
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.pretrain.spec import MODEL_FILE
from harness.train import predictions
from harness.train.evaluate import View, evaluate
from harness.train.flip_tta import FlipAverage
from harness.train.loader_plans import eval_plan, split_path
from loaders import open_loader

BY: tuple[Literal["sum", "max"], ...] = ("sum", "max")  # ways to answer with a coarser label


def run(context: StageContext) -> Outcome:
    """Metrics: the common classes; clean and adversarial scores on each view, also class by class; `coarse`, by subset: its
    number of labels, and scores on them by the classes' summed probability and by the likeliest class (of the model that was
    trained on them: its own); the attack; the file with the predictions. Seconds of each pass. Where it is asked to stop, it
    stops behind a batch, and begins anew when it is run again: no counts are kept."""
    config = context.config
    settings = EvaluateSettings.model_validate(config["settings"])
    classes = context.needs["data"].metrics["classes"]
    common = _common_classes(context, classes)
    labels = tuple(classes.index(name) for name in common)
    views = {"own": View()}
    if common:
        views |= {
            "common_unmasked": View(labels=labels),
            "common_masked": View(labels=labels, logits=labels),
        }
    label_sets = _coarser_label_sets(context)
    coarse: dict[str, Any] = {
        name: {"num_labels": max(groups) + 1, "clean": None, "adversarial": None}
        for name, groups in label_sets.items()
    }
    for name, groups in label_sets.items():
        if len(set(groups)) < len(groups):
            views |= {f"coarse {name} {by}": View(groups=groups, by=by) for by in BY}
    loaded, _ = models.load(context.need_folders["model"] / MODEL_FILE)
    loaded.to(context.device)
    model = FlipAverage(loaded) if config["flip_tta"] else loaded
    precision = choose(config["precision"], context.device)
    eps = settings.attack.eps_of(
        config["eps"] or settings.eps_of_clean or 0.0, config["resolution"]
    )
    plan = eval_plan(
        split_path(context, "data", "val"),
        settings.batch_size,
        config["resolution"],
        config["eval_crop"],
        context,
    )
    scores: dict[str, Any] = {"clean": None, "adversarial": None}
    per_class: dict[str, Any] = {"classes": classes}
    answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    seconds = {}
    zero_gradients = torch.zeros((), dtype=torch.int64, device=context.device)
    with open_loader(plan) as loader:
        for name in ("clean", "adversarial") if eps > 0 else ("clean",):
            started = time.monotonic()
            counts = evaluate(
                model,
                loader,
                device=context.device,
                precision=precision,
                num_classes=len(classes),
                views=views,
                eps=eps if name == "adversarial" else 0.0,
                attack=settings.attack if name == "adversarial" else None,
                keep_predictions=True,
                group=context.group,
                zero_gradients=zero_gradients,
                after_batch=PassProgress(context, loader, name),
            )
            on_labels = {
                view: count for view, count in counts.items() if not view.startswith("coarse ")
            }
            scores[name] = {view: count.scores() for view, count in on_labels.items()}
            for subset, about in coarse.items():
                about[name] = {
                    by: counts[f"coarse {subset} {by}"].scores()
                    for by in BY
                    if f"coarse {subset} {by}" in counts
                }
                about[name] = about[name] or {"own": scores[name]["own"]}
            per_class["num_images"] = counts["own"].per_class()[1].tolist()
            per_class[name] = {
                view: count.per_class()[0].tolist() for view, count in on_labels.items()
            }
            answers |= {
                f"{name}_{view}": counts[view].predictions()
                for view in ("own", "common_masked")
                if view in counts
            }
            seconds[f"{name}_s"] = time.monotonic() - started
        if context.group.is_main:
            predictions.save(context.folder, loader, answers)
    attack = None
    if eps > 0:
        attack = {
            "norm": settings.attack.norm,
            "eps": eps,
            "steps": settings.attack.steps,
            "step_size": settings.attack.step_length(eps),
            "resolution": config["resolution"],
            "restarts": settings.attack.restarts,
            "zero_gradients": int(zero_gradients),
        }
    return Outcome(
        {
            "num_common_classes": len(common),
            "common_classes": common,
            **scores,
            "coarse": coarse,
            "per_class": per_class,
            "attack": attack,
            "precision": precision,
            "predictions": predictions.FILE,
        },
        seconds,
    )


def _common_classes(context: StageContext, classes: list[str]) -> list[str]:
    """Classes of every subset that is compared, in the order of this model's labels; none where the model lacks one."""
    roles = context.config.get(
        "common", [role for role in context.needs if role.startswith("common_")]
    )
    shared = (
        set.intersection(*(set(context.needs[role].metrics["classes"]) for role in roles))
        if roles
        else set()
    )
    return [name for name in classes if name in shared] if shared <= set(classes) else []


def _coarser_label_sets(context: StageContext) -> dict[str, tuple[int, ...]]:
    """Subset -> for each class of the model the subset's label that it belongs to; where each of them belongs to one."""
    found = {}
    for role, name in context.config.get("coarse", {}).items():
        label_of = {
            source: label for label, group in enumerate(_groups(context, role)) for source in group
        }
        labels = [
            {label_of.get(source, -1) for source in group} for group in _groups(context, "data")
        ]
        if all(len(label) == 1 and -1 not in label for label in labels):
            used = sorted(set.union(*labels))
            found[name] = tuple(used.index(label.pop()) for label in labels)
    return found


def _groups(context: StageContext, role: str) -> list[list[str]]:
    """The source's classes behind each label."""
    metrics = context.needs[role].metrics
    groups: list[list[str]] = metrics["subset"].get("groups") or [
        [name] for name in metrics["classes"]
    ]
    return groups
