"""Transfer to a target with boxes: Faster R-CNN on a pretrained ResNet (Huh et al. 2016).

A detector is trained on train with each learning rate, and `map50_11` on val chooses a rate. With
`refit`, a detector is then trained with this rate on train and val together. Test is read once.
Detectors are always trained on clean images, even if the pretraining was adversarial.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from harness.config.grid import Trial
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.precision import choose
from harness.profiling.timer import Timer
from harness.runner.context import Outcome, StageContext
from harness.train import predictions
from harness.train.detection_scores import DetectionCounts
from harness.train.learner import Learner
from harness.train.loader_plans import check_val_is_not_test, split_path
from harness.train.optimizer import make_sgd
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods.detection.batches import FedLoader, FitPlan
from harness.transfer.methods.detection.evaluation import detect
from harness.transfer.methods.detection.network import Detector
from harness.transfer.methods.detection.settings import DetectionSettings
from harness.transfer.methods.detection.step import DetectionStep
from harness.transfer.search import open_search
from harness.transfer.search_record import search_record
from harness.transfer.stage_files import remove_temporary_files, write_train_and_val
from harness.transfer.timing import timing_of
from loaders.backend import Loader
from loaders.detection import DetectionPlan, open_detection_loader
from writers.beton.store import open_beton
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.stages.transfer.record import TransferMetrics

MODEL_FILE = "model.pt"  # file in the folder of the stage that trained or imported the network


@dataclass(frozen=True)
class DetectionMethod:
    """Method that trains one point of the grid; see `harness.transfer.method.Method`.

    Attributes:
        load: builds a detector from the pretrained network and moves it to the device.
    """

    load: Callable[[], Detector]

    def candidates(self, setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
        """Prepare the training of a detector for one trial (point of the grid)."""
        (trial,) = trials
        model = self.load().train()
        step = DetectionStep(
            model,
            make_sgd(model, trial.settings.optimizer, trial.lr),
            peak_lr=trial.lr,
            device=setup.device,
            precision=setup.precision,
            timer=setup.timer,
        )
        # The search only copies, saves and loads models, so it can also handle detectors.
        detectors = [(trial, cast(Classifier, model))]
        return TrainedModels(cast(Learner, step), lambda: detectors)


def run(context: StageContext) -> Outcome:
    """Train a detector for each point of the grid, choose one on val, and score it on test."""
    started = time.monotonic()
    settings = DetectionSettings.model_validate(context.config["settings"])
    check_boxes(context)
    check_val_is_not_test(context)
    classes = context.needs["data"].metrics["classes"]
    precision, timer = choose(settings.precision, context.device), Timer(context.device)
    source, about = classifier.load(context.need_folders["model"] / MODEL_FILE)

    def load() -> Detector:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.config["seed"])
            detector = Detector(copy.deepcopy(source), len(classes), settings)
        detector.to(context.device, memory_format=torch.channels_last)
        return detector

    images = _training_images(context, settings, split_path(context, "data", "train"))
    # `fit` and `Search` use only those members of a loader that `FedLoader` has.
    loader, method = cast(Loader, images), DetectionMethod(load)
    search = open_search(
        context,
        method,
        settings,
        loader,
        lambda model, crop: _count(context, settings, cast(Detector, model), "val").scores(),
        load=cast(Callable[[], Classifier], load),
        scratch=cast(Callable[[], Classifier], load),
        precision=precision,
        timer=timer,
        num_classes=len(classes),
    )
    startup_s = time.monotonic() - started
    best = search.run()
    model, num_fit_images = best.model, images.num_samples
    if settings.refit:
        all_images = _training_images(context, settings, write_train_and_val(context))
        model = search.refit(best, cast(Loader, all_images))
        num_fit_images = all_images.num_samples
    evaluated = time.monotonic()
    context.progress(note="evaluation on test")
    counts = _count(context, settings, cast(Detector, model), "test", keep_detections=True)
    eval_s = search.eval_s + time.monotonic() - evaluated
    remove_temporary_files(context.folder)

    # mypy: a SearchRecord could have optional keys of TransferMetrics with other types.
    metrics: TransferMetrics = {
        **search_record(search, best),  # type: ignore[typeddict-item]
        "metric": context.config["metric"],
        "test": counts.scores(),
        "resolution": settings.short_side,
        "num_classes": len(classes),
        "num_train_images": images.num_samples,
        "num_fit_images": num_fit_images,
        "bn_stats": settings.bn_stats,
        "precision": precision,
        "source_eps": about.get("eps"),
        "detections": predictions.DETECTIONS_FILE,
        "classes": {
            name: asdict(own) if own is not None else None
            for name, own in zip(classes, counts.by_class(), strict=True)
        },
    }
    return Outcome(metrics, timing_of(search.clocks, eval_s, startup_s, None))


def _training_images(context: StageContext, settings: DetectionSettings, beton: Path) -> FedLoader:
    plan = DetectionPlan(
        beton,
        settings.batch_size,
        order="random",
        horizontal_flip=settings.horizontal_flip,
        seed=context.config["seed"],
        num_threads=context.num_threads,
    )
    fit_plan = FitPlan(settings.batch_size, settings.short_side)
    return FedLoader(open_detection_loader(plan), fit_plan, context.device)


def _count(
    context: StageContext,
    settings: DetectionSettings,
    model: Detector,
    split: str,
    *,
    keep_detections: bool = False,
) -> DetectionCounts:
    """Detect objects in the images of a split, and compare them with the annotations."""
    plan = DetectionPlan(
        split_path(context, "data", split),
        settings.batch_size,
        order="sequential",
        num_threads=context.num_threads,
    )
    num_classes = len(context.needs["data"].metrics["classes"])
    precision = choose(settings.precision, context.device)
    with open_detection_loader(plan) as images:
        counts = detect(model, images, num_classes, context.device, precision)
        if keep_detections:
            ids = images.samples.ids[images.samples.order(plan.of_images, 0)]
            predictions.save_detections(context.folder, ids, counts.detected, counts.objects)
    return counts


def check_boxes(context: StageContext) -> None:
    """Check that all splits of the target have boxes.

    Raises:
        UserError: a split has no boxes.
    """
    for split in ("train", "val", "test"):
        path = split_path(context, "data", split)
        if not open_beton(path).has_boxes:
            raise UserError(
                f"{path} has no boxes of objects, which detection needs.",
                "Choose a dataset with boxes, such as voc2007_detection.",
            )
