"""Evaluate a model on val, for its own classes and for the classes that all subsets share.

Images of the common classes are scored unmasked (the model may predict any of its classes) and
masked (it may predict the common classes only). The difference is the accuracy that the model loses
by confusion with classes that other models do not have. A model that lacks a common class is
evaluated on its own classes only. If a subset of the recipe has coarser labels, models with finer
classes are also scored on the coarser labels.

A model that is loaded instead of trained here (stage `adopt`) is evaluated on the source dataset if
its head has the classes of that dataset. Otherwise the result has the reason instead of scores.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from harness.config.recipe import EvaluateSettings
from harness.matrix.scores import Scores
from harness.modeling import classifier
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.evaluate.head_order import order_head
from harness.stages.evaluate.record import EvaluateMetrics, EvaluateTiming
from harness.stages.pretrain.spec import MODEL_FILE
from harness.system.out_of_memory import is_out_of_memory
from harness.train import compile_choice, predictions
from harness.train.cuda_graph_attack import CaptureFailedError
from harness.train.evaluate import EvaluationPlan, View, choose_compile_mode, evaluate
from harness.train.flip_tta import FlipAverage
from harness.train.loader_plans import choose_interpolation, eval_plan, in_view, split_path
from harness.train.metrics import Counts
from harness.train.records import CompileMeasurement
from loaders import open_loader
from loaders.backend import Loader
from writers.text_names import first_line

# Ways to predict a coarse label, see `harness.train.evaluate.View.by`.
BY: tuple[Literal["sum", "max"], ...] = ("sum", "max")
Pass = Literal["clean", "adversarial"]


def run(context: StageContext) -> Outcome:
    """Evaluate the model on clean images and, if eps is above 0, on attacked images.

    eps is that of the model's training, or the setting `eps_of_clean` if the training was clean.

    Raises:
        Stopped: a stop was requested. The next run starts from the beginning.
        RestartRequiredError: the attack's compile mode failed. The next attempt does not use it.
    """
    config = context.config
    settings = EvaluateSettings.model_validate(config["settings"])
    classes = context.needs["data"].metrics["classes"]
    common = _common_classes(context, classes)
    coarse_labels = _coarse_labels(context)
    views = _views(tuple(classes.index(name) for name in common), coarse_labels)
    loaded, about = classifier.load(context.need_folders["model"] / MODEL_FILE)
    is_loaded = context.needs["model"].kind == "adopt"
    if is_loaded and (reason := order_head(loaded, about, classes)):
        print(f"Not measured: {reason}.", flush=True)
        return Outcome(_not_measured(reason))
    loaded.to(context.device)
    model = FlipAverage(loaded) if config["flip_tta"] else loaded
    precision = choose(config["precision"], context.device)
    resolution = loaded.fixed_size or config["resolution"] or about["resolution"]
    eval_crop = config["eval_crop"] or about["eval_crop"]
    interpolation = choose_interpolation(config.get("interpolation", "auto"), about)
    eps = settings.attack.eps_of(config["eps"] or settings.eps_of_clean or 0.0, resolution)
    plan = eval_plan(
        split_path(context, "data", "val"),
        settings.batch_size,
        resolution,
        eval_crop,
        context,
        interpolation,
    )
    plan = in_view(plan, context, "data", "val")
    metrics: EvaluateMetrics = {
        "num_common_classes": len(common),
        "common_classes": common,
        "clean": {},
        "adversarial": None,
        "coarse": {
            name: {"num_labels": max(groups) + 1, "clean": None, "adversarial": None}
            for name, groups in coarse_labels.items()
        },
        "per_class": {"classes": classes},
        "attack": None,
        "precision": precision,
        "resolution": resolution,
        "eval_crop": eval_crop,
        "interpolation": interpolation,
        "predictions": predictions.FILE,
    }
    timing: EvaluateTiming = {}
    predicted: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    zero_gradients = torch.zeros((), dtype=torch.int64, device=context.device)
    clean_plan = EvaluationPlan(context.device, precision, len(classes), views, group=context.group)
    attacked_plan = replace(
        clean_plan, attack=settings.attack, eps=eps, attacked_logits=settings.attacked_logits
    )
    passes: tuple[Pass, ...] = ("clean", "adversarial") if eps > 0 else ("clean",)
    with open_loader(plan) as loader:
        for name in passes:
            started = time.monotonic()
            pass_of = partial(
                evaluate,
                model,
                loader,
                keep_predictions=True,
                zero_gradients=zero_gradients,
                after_batch=PassProgress(context, loader, name),
            )
            if name == "clean":
                counts = pass_of(clean_plan)
            else:
                timing["compile"] = _choose_compile_mode(
                    context, settings, model, loader, attacked_plan
                )
                compile_mode = timing["compile"]["chosen"]
                attacked_plan = replace(attacked_plan, compile_mode=compile_mode)
                counts = _without_failing_mode(
                    partial(pass_of, attacked_plan), compile_mode, context.folder
                )
            _add_scores(metrics, name, counts)
            predicted |= {
                f"{name}_{view}": counts[view].predictions()
                for view in ("own", "common_masked")
                if view in counts
            }
            seconds = time.monotonic() - started
            if name == "clean":
                timing["clean_s"] = seconds
            else:
                timing["adversarial_s"] = seconds
        if context.group.is_main:
            predictions.save(context.folder, loader, predicted)
    if eps > 0:
        metrics["attack"] = {
            "norm": settings.attack.norm,
            "eps": eps,
            "steps": settings.attack.steps,
            "step_size": settings.attack.step_length(eps),
            "resolution": resolution,
            "restarts": settings.attack.restarts,
            "zero_gradients": int(zero_gradients),
            "logits": settings.attacked_logits,
            "compiled": attacked_plan.compile_mode,
        }
    return Outcome(metrics, timing)


def _views(
    common: tuple[int, ...], coarse_labels: Mapping[str, tuple[int, ...]]
) -> dict[str, View]:
    """Return the views of the model's logits.

    Args:
        common: labels of the common classes; empty if the model lacks one.
        coarse_labels: result of `_coarse_labels`.
    """
    views = {"own": View()}
    if common:
        views["common_unmasked"] = View(labels=common)
        views["common_masked"] = View(labels=common, logits=common)
    for name, groups in coarse_labels.items():
        if len(set(groups)) < len(groups):
            views |= {_coarse_view(name, by): View(groups=groups, by=by) for by in BY}
    return views


def _coarse_view(subset: str, by: str) -> str:
    return f"coarse {subset} {by}"


def _add_scores(metrics: EvaluateMetrics, name: Pass, counts: Mapping[str, Counts]) -> None:
    """Add the scores of a pass to the metrics. `counts` has those of each view."""
    coarse = {_coarse_view(subset, by) for subset in metrics["coarse"] for by in BY}
    fine = {view: count for view, count in counts.items() if view not in coarse}
    scores = {view: count.scores() for view, count in fine.items()}
    metrics[name] = scores
    for subset, coarse_scores in metrics["coarse"].items():
        by_way: dict[str, Scores] = {
            by: counts[view].scores() for by in BY if (view := _coarse_view(subset, by)) in counts
        }
        coarse_scores[name] = by_way or {"own": scores["own"]}
    per_class = metrics["per_class"]
    per_class["num_images"] = counts["own"].per_class()[1].tolist()
    per_class[name] = {view: count.per_class()[0].tolist() for view, count in fine.items()}


def _not_measured(reason: str) -> EvaluateMetrics:
    """Return the metrics of a model that cannot be evaluated on these classes."""
    return {
        "num_common_classes": 0,
        "common_classes": [],
        "clean": {},
        "adversarial": None,
        "coarse": {},
        "per_class": {},
        "attack": None,
        "not_measured": reason,
    }


def _choose_compile_mode(
    context: StageContext,
    settings: EvaluateSettings,
    model: nn.Module,
    loader: Loader,
    plan: EvaluationPlan,
) -> CompileMeasurement:
    """Choose the compile mode of the attack, the same for all ranks, and record the choice."""
    setting = settings.compile or "off"
    if setting == "off":
        return {"chosen": "eager"}
    chosen: CompileMeasurement = context.group.broadcast(
        choose_compile_mode(model, loader, context.folder, setting, plan)
    )
    if setting == "auto" and context.group.is_main:
        compile_choice.record(context.folder, chosen)
    return chosen


def _without_failing_mode(
    attacked: Callable[[], dict[str, Counts]], mode: str, folder: Path
) -> dict[str, Counts]:
    """Run an attacked pass. If its compile mode fails, exclude it from the stage's next attempt.

    Raises:
        RestartRequiredError: The capture of a CUDA graph failed, or a mode other than eager ran
            out of memory.
    """
    try:
        return attacked()
    except CaptureFailedError as error:
        raise compile_choice.restart_without(folder, mode, str(error)[:200]) from error
    except (RuntimeError, MemoryError) as error:
        if mode == "eager" or not is_out_of_memory(error):
            raise
        raise compile_choice.restart_without(folder, mode, first_line(error)[:200]) from error


def _common_classes(context: StageContext, classes: list[str]) -> list[str]:
    """List the classes that all compared subsets share, in the order of this model's labels.

    The list is empty if the model lacks one of these classes.
    """
    roles = context.config.get(
        "common", [role for role in context.needs if role.startswith("common_")]
    )
    shared = (
        set.intersection(*(set(context.needs[role].metrics["classes"]) for role in roles))
        if roles
        else set()
    )
    return [name for name in classes if name in shared] if shared <= set(classes) else []


def _coarse_labels(context: StageContext) -> dict[str, tuple[int, ...]]:
    """Map the name of each coarse subset to the coarse labels of the model's classes.

    A subset is left out if one of the model's classes has no coarse label in it, or several.
    """
    label_sets = {}
    for role, name in context.config.get("coarse", {}).items():
        label_of = {
            source: label for label, group in enumerate(_groups(context, role)) for source in group
        }
        labels = [
            {label_of.get(source, -1) for source in group} for group in _groups(context, "data")
        ]
        if all(len(label) == 1 and -1 not in label for label in labels):
            used = sorted(set.union(*labels))
            label_sets[name] = tuple(used.index(label.pop()) for label in labels)
    return label_sets


def _groups(context: StageContext, role: str) -> list[list[str]]:
    """List the source classes of each label."""
    metrics = context.needs[role].metrics
    groups: list[list[str]] = metrics["subset"].get("groups") or [
        [name] for name in metrics["classes"]
    ]
    return groups
