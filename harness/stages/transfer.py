"""Transfers one pretrained model to one target by one method, with its whole grid of learning rates.

Val chooses among them; test is read once, by the chosen model.
"""

import copy
import shutil
import time
from typing import Any

import torch

from harness import method as methods
from harness import model as models
from harness.method import Setup
from harness.model import Classifier
from harness.stage import Outcome, StageContext
from harness.stages.pretrain import MODEL_FILE
from harness.timer import Timer, summary
from harness.train import evaluate, predictions, trial
from harness.train.divergence import Diverged
from harness.train.fit import Checkpoints, Clock, fit
from harness.train.flip import FlipAverage
from harness.train.modes import fixed_shapes
from harness.train.plans import eval_plan, split_path, train_plan
from harness.train.precision import choose
from harness.train.trainee import replay_rate
from harness.transfer_settings import TransferSettings
from loaders import open_loader
from loaders.backend import Loader
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Metrics: scores on test of the model that val chose, its learning rate, the grid with its scores on val."""
    started = time.monotonic()
    config = context.config
    settings = TransferSettings.model_validate(config["settings"])
    method = methods.find(config["method"])
    classes = context.needs["data"].metrics["classes"]
    precision, timer = choose(settings.precision, context.device), Timer(context.device)
    source, about = models.load(context.need_folders["model"] / MODEL_FILE)

    def load() -> Classifier:
        model = copy.deepcopy(source)
        models.replace_head(model, len(classes), torch.Generator().manual_seed(config["seed"]))
        return model.to(context.device)

    def score(model: Classifier, split: str, *, keep_predictions: bool = False) -> dict[str, Any]:
        plan = eval_plan(split_path(context, "data", split), settings.batch_size,
                         settings.eval_resolution or settings.resolution, settings.eval_crop, context)
        with open_loader(plan) as loader:
            judged = FlipAverage(model) if settings.flip_tta else model
            counts = evaluate.count(judged, loader, device=context.device, precision=precision, num_classes=len(classes))
            if keep_predictions:
                predictions.save(context.folder, loader, {split: counts.predictions()})
            return counts.scores()

    torch.manual_seed(config["seed"])       # for what draws from the global generator, such as dropout
    setup = Setup(load, settings, settings.bn_stats or method.DEFAULT_BN_STATS, context.device, precision, timer)
    clocks: list[Clock] = []
    grid: dict[float, dict[str, Any]] = {}
    best: tuple[float, Classifier] | None = None
    failure: UserError = Diverged("No learning rate of the grid leaves finite weights.", "Add lower ones to `lrs`.")
    eval_s = 0.0
    checkpoints = context.folder / "checkpoints"
    with fixed_shapes(context.device), \
            open_loader(train_plan(split_path(context, "data", "train"), settings, config["seed"], context)) as loader:
        _check_metric(config["metric"], loader)
        startup_s = time.monotonic() - started
        for number, trainee in enumerate(method.trainees(setup)):
            clocks.append(Clock())
            timer.clear()
            exhausted = False
            try:
                for _ in fit(trainee, loader, settings.optimizer, num_epochs=settings.epochs, timer=timer, clock=clocks[-1],
                             checkpoints=Checkpoints(checkpoints / str(number), context.device, context.checkpoint_every_s),
                             stop_requested=context.stop_requested, progress=context.progress):
                    pass
            except Diverged as error:
                failure = error
                continue
            except RuntimeError as error:
                if not trial.is_out_of_memory(error):
                    raise
                exhausted = True
            if exhausted:       # behind the handler, where the error no longer holds on to the memory of the step
                batch = trial.noise_batch(min(settings.batch_size, loader.num_samples), settings.resolution, len(classes),
                                          context.device)
                raise trial.out_of_memory(trainee, batch, can_accumulate=False)
            evaluated = time.monotonic()
            for lr, model in trainee.candidates().items():
                try:
                    grid[lr] = score(model, "val")
                except Diverged as error:
                    failure = error
                    continue
                if best is None or _better(grid, config["metric"], lr, best[0]):
                    best = lr, copy.deepcopy(model)
            eval_s += time.monotonic() - evaluated
        if best is None:
            raise failure
        evaluated = time.monotonic()
        test = score(best[1], "test", keep_predictions=True)
        eval_s += time.monotonic() - evaluated
        with loader.epoch(0) as batches:
            replay_img_per_s = replay_rate(trainee, *next(batches), train_s=clocks[-1].train_s)
        num_train_images = loader.num_samples
    shutil.rmtree(checkpoints, ignore_errors=True)

    metrics = {
        "metric": config["metric"], "test": test, "val": grid[best[0]], "lr": best[0],
        "grid": [{"lr": lr, "val": grid.get(lr)} for lr in settings.lrs],      # None: it diverged
        "num_configs": len(settings.lrs), "selected_on": "val", "num_epochs": settings.epochs, "num_classes": len(classes),
        "num_train_images": num_train_images, "bn_stats": setup.bn_stats, "precision": precision, "source_eps": about["eps"],
        "predictions": predictions.FILE,
        "damaged_checkpoints": [line for clock in clocks for line in clock.damaged_checkpoints]}
    return Outcome(metrics, _timing(clocks, eval_s, startup_s, replay_img_per_s))


def _check_metric(metric: str, loader: Loader) -> None:
    if (metric == "map11") != loader.multi_label:
        labels = "many labels" if loader.multi_label else "one label"
        raise UserError(f"The metric {metric} does not fit {loader.plan.beton.parent.name}: an image there has {labels}.",
                        "Leave `metric:` out for the dataset's own.")


def _better(grid: dict[float, dict[str, Any]], metric: str, lr: float, best: float) -> bool:
    """Higher on val; of equals the smaller rate."""
    return (grid[lr][metric], -lr) > (grid[best][metric], -best)


def _timing(clocks: list[Clock], eval_s: float, startup_s: float, replay_img_per_s: float) -> dict[str, Any]:
    """Of all trainees together."""
    spans = {name: sum(clock.spans_s.get(name, 0.0) for clock in clocks) for clock in clocks for name in clock.spans_s}
    return summary(spans, num_steps=sum(clock.num_steps for clock in clocks),
                   num_images=sum(clock.num_images for clock in clocks), train_s=sum(clock.train_s for clock in clocks),
                   checkpoint_s=sum(clock.checkpoint_s for clock in clocks), eval_s=eval_s, startup_s=startup_s,
                   replay_img_per_s=replay_img_per_s)
