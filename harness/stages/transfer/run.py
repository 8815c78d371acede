"""Transfer one pretrained model to one target by one method.

A model is trained for each point of the method's grid, and the scores on val choose one of them.
Test is read once, to score the chosen model.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from harness.config.methods import settings_model
from harness.config.transfer import TransferSettings
from harness.matrix.scores import Scores
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import cudnn_benchmark
from harness.modeling.precision import Precision, choose
from harness.profiling.timer import Timer
from harness.runner.context import Outcome, StageContext
from harness.stages.pretrain.spec import MODEL_FILE
from harness.stages.transfer.record import TransferMetrics
from harness.train import evaluate, predictions
from harness.train.flip_tta import FlipAverage
from harness.train.loader_plans import (
    check_val_is_not_test,
    choose_interpolation,
    eval_plan,
    sample_per_class_of_beton,
    split_path,
    train_plan,
)
from harness.train.replay import replay_rate
from harness.transfer import method as transfer_method
from harness.transfer.search import Search, open_search
from harness.transfer.search_record import search_record
from harness.transfer.stage_files import remove_temporary_files, write_train_and_val
from harness.transfer.timing import timing_of
from loaders import open_loader
from loaders.backend import Loader
from loaders.interpolation import Interpolation
from loaders.plan import LoaderPlan
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Train a model for each point of the grid, choose one on val, and score it on test.

    Raises:
        Stopped: a stop was requested. The next run resumes the search.
        UserError: training diverged at every point, a batch does not fit in memory, val and test
            are the same images, or the metric does not fit the labels.
    """
    started = time.monotonic()
    config = context.config
    settings = settings_model(config["method"]).model_validate(config["settings"])
    if settings.RUNS_STAGE or not isinstance(settings, TransferSettings):
        return transfer_method.find_stage_method(config["method"]).run(context)
    method = transfer_method.find(config["method"])
    classes = context.needs["data"].metrics["classes"]
    check_val_is_not_test(context)
    load, source_eps = _source(context, len(classes))
    settings = _at_fixed_size(settings, load.fixed_size)
    precision, timer = choose(settings.precision, context.device), Timer(context.device)
    interpolation = choose_interpolation(settings.interpolation, load.about)
    score = partial(_score, context, settings, interpolation, precision)
    images = _train_plan(context, settings, interpolation)

    with cudnn_benchmark(context.device), open_loader(images) as loader:
        _check_metric(config["metric"], loader)
        search = open_search(
            context,
            method,
            settings,
            loader,
            lambda model, crop: score(model, "val", crop),
            load=load.pretrained,
            scratch=load.scratch,
            precision=precision,
            timer=timer,
            num_classes=len(classes),
        )
        startup_s = time.monotonic() - started
        best = search.run()
        model, num_fit_images = best.model, loader.num_samples
        if settings.refit:
            with open_loader(_refit_plan(context, images)) as all_images:
                model, num_fit_images = search.refit(best, all_images), all_images.num_samples
        evaluated = time.monotonic()
        context.progress(note="evaluation on test")
        test = score(model, "test", best.crop, keep_predictions=True)
        eval_s = search.eval_s + time.monotonic() - evaluated
        replay_img_per_s = _replay_rate(context, search, loader)
        num_train_images = loader.num_samples
    if settings.keep_model:
        about = _about(load.about, classes, settings.resolution, best.crop, interpolation)
        classifier.save(context.folder / MODEL_FILE, model, about)
    remove_temporary_files(context.folder)

    # mypy: a SearchRecord could have optional keys of TransferMetrics with other types.
    metrics: TransferMetrics = {
        **search_record(search, best),  # type: ignore[typeddict-item]
        "metric": config["metric"],
        "test": test,
        "resolution": settings.resolution,
        "interpolation": interpolation,
        "num_classes": len(classes),
        "num_train_images": num_train_images,
        "num_fit_images": num_fit_images,
        "bn_stats": settings.bn_stats,
        "num_parts": search.num_parts,
        "precision": precision,
        "source_eps": source_eps,
        "predictions": predictions.FILE,
    }
    if settings.keep_model:
        metrics["model"] = MODEL_FILE
    return Outcome(metrics, timing_of(search.clocks, eval_s, startup_s, replay_img_per_s))


def _at_fixed_size(settings: TransferSettings, fixed_size: int | None) -> TransferSettings:
    """Return the settings with the resolution that the network requires, and report a change."""
    if fixed_size is None or fixed_size == settings.resolution:
        return settings
    print(
        f"The network takes images of {fixed_size} pixels per side only; this size is used instead "
        f"of {settings.resolution}."
    )
    return settings.model_copy(update={"resolution": fixed_size, "eval_resolution": None})


def _score(
    context: StageContext,
    settings: TransferSettings,
    interpolation: Interpolation,
    precision: Precision,
    model: Classifier,
    split: str,
    crop: float,
    *,
    keep_predictions: bool = False,
) -> Scores:
    """Score a model on a split, for a center crop of this fraction of the shorter side."""
    plan = eval_plan(
        split_path(context, "data", split),
        settings.batch_size,
        settings.eval_resolution or settings.resolution,
        crop,
        context,
        interpolation,
    )
    num_classes = len(context.needs["data"].metrics["classes"])
    with open_loader(plan) as loader:
        judged = FlipAverage(model) if settings.flip_tta else model
        counts = evaluate.count(
            judged, loader, device=context.device, precision=precision, num_classes=num_classes
        )
        if keep_predictions:
            predictions.save(context.folder, loader, {split: counts.predictions()})
        return counts.scores()


def _replay_rate(context: StageContext, search: Search, loader: Loader) -> float | None:
    """Measure training without loading, in images per second; None if nothing was trained."""
    if search.last_learner is None:
        return None
    context.progress(note="speed without loading")
    clock = search.clocks[-1]
    with loader.epoch(0) as batches:
        return replay_rate(
            search.last_learner,
            *next(batches),
            train_s=clock.train_s,
            num_images=clock.num_images,
        )


@dataclass(frozen=True)
class _Loads:
    """Functions that return models with a new head, on the device.

    Each call of a function returns the same weights.

    Attributes:
        pretrained: returns the pretrained model.
        scratch: returns the architecture with random weights.
        fixed_size: side in pixels, if the network takes images of one size only; otherwise None.
        about: metadata that is saved with the pretrained model. If the method needs no model,
            `arch` of the config.
    """

    pretrained: Callable[[], Classifier]
    scratch: Callable[[], Classifier]
    fixed_size: int | None
    about: Mapping[str, Any]


def _source(context: StageContext, num_classes: int) -> tuple[_Loads, float | None]:
    """Return the functions that load models, and the eps of the pretraining.

    The eps is None if it is unknown, or if the method needs no pretrained model.
    """
    seed, source, eps = context.config["seed"], None, None
    # If the method needs no pretrained model, its config has the architecture.
    about = context.config.get("arch")
    if "model" in context.needs:
        source, about = classifier.load(context.need_folders["model"] / MODEL_FILE)
        eps = about.get("eps")
    assert about is not None

    def with_head(model: Classifier) -> Classifier:
        classifier.replace_head(model, num_classes, torch.Generator().manual_seed(seed))
        return model.to(context.device)

    def scratch() -> Classifier:
        channels = about.get("channels")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return with_head(
                classifier.build(
                    about["arch"],
                    num_classes,
                    channels=tuple(channels) if channels else None,
                    blur_pool=about.get("blur_pool", False),
                )
            )

    fixed_size = (source if source is not None else scratch()).fixed_size
    return _Loads(
        lambda: with_head(copy.deepcopy(source)) if source is not None else scratch(),
        scratch,
        fixed_size,
        about,
    ), eps


def _about(
    source: Mapping[str, Any],
    classes: Sequence[str],
    resolution: int,
    eval_crop: float,
    interpolation: Interpolation,
) -> dict[str, Any]:
    """Return the metadata that is saved with a transferred model.

    Args:
        source: metadata of the pretrained model.
        classes: the target's classes, in label order.
        resolution: side of the images in pixels.
        eval_crop: center crop of the evaluation, as a fraction of the shorter side.
        interpolation: filter of the resize.
    """
    network = ("arch", "channels", "blur_pool", "batch_norm_scale", "imported_from")
    return {name: source[name] for name in network if name in source} | {
        "classes": list(classes),
        "eps": 0.0,
        "resolution": resolution,
        "eval_crop": eval_crop,
        "interpolation": interpolation,
    }


def _train_plan(
    context: StageContext, settings: TransferSettings, interpolation: Interpolation
) -> LoaderPlan:
    beton = split_path(context, "data", "train")
    plan = replace(
        train_plan(beton, settings, context.config["seed"], context, interpolation),
        order=settings.order,
        indices=sample_per_class_of_beton(beton, settings.per_class, context.config["seed"])
        if isinstance(settings.per_class, int)
        else None,
    )
    return (
        plan
        if settings.train_crop == "random"
        else replace(plan, augment="center_crop", center_fraction=settings.eval_crop)
    )


def _refit_plan(context: StageContext, trials: LoaderPlan) -> LoaderPlan:
    """Plan the images of the final fit: train and val together, in a new `.beton` file.

    If `per_class` limits the images of train, the final fit uses these images only, without val.

    Args:
        context: Context of the stage.
        trials: Plan of the images that the points of the grid train on.
    """
    if trials.indices is not None:
        return trials
    return replace(trials, beton=write_train_and_val(context))


def _check_metric(metric: str, loader: Loader) -> None:
    if (metric == "map11") != loader.multi_label:
        labels = "many labels" if loader.multi_label else "one label"
        raise UserError(
            f"The metric {metric} does not fit {loader.plan.beton.parent.name}, whose images have "
            f"{labels}.",
            "Remove `metric:` to use the dataset's own.",
        )
