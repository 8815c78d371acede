"""Pretrains one model from random weights on one subset; adversarially where eps is above 0. Leaves `model.pt`."""

import shutil
import time
from typing import Any

import torch

from harness import model as models
from harness.settings import PretrainSettings
from harness.stage import Outcome, StageContext
from harness.timer import Timer, summary
from harness.train.evaluate import View, evaluate
from harness.train.fit import Checkpoints, Clock, fit, num_batches
from harness.train.flip import FlipAverage
from harness.train.plans import eval_plan, split_path, train_plan
from harness.train.precision import choose
from harness.train.trainee import ModelTrainee, replay_rate
from loaders import open_loader
from writers.store import open_beton

MODEL_FILE = "model.pt"


def run(context: StageContext) -> Outcome:
    """Metrics: accuracies on val, the epochs' losses, what was trained on. Timing: see harness.timer.summary."""
    started = time.monotonic()
    settings = PretrainSettings.model_validate(context.config["settings"])
    eps, seed, arch = context.config["eps"], context.config["seed"], context.config["arch"]
    classes = context.needs["data"].metrics["classes"]
    precision, timer, clock = choose(settings.precision, context.device), Timer(context.device), Clock()

    torch.manual_seed(seed)
    model = models.build(arch, len(classes), channels=settings.channels, blur_pool=settings.blur_pool).to(context.device)
    trainee = ModelTrainee(model, settings.optimizer, settings.optimizer.lr, device=context.device, precision=precision,
                           label_smoothing=settings.label_smoothing, timer=timer, train_mode=model.train,
                           attack=settings.attack if eps > 0 else None, eps=eps, seed=seed, ema_decay=settings.ema_decay)
    checkpoints = Checkpoints(context.folder / "checkpoints", context.device, context.checkpoint_every_s)
    with open_loader(train_plan(split_path(context, "data", "train"), settings, seed, context)) as loader:
        startup_s = time.monotonic() - started
        records = list(fit(trainee, loader, settings.optimizer, num_epochs=settings.epochs, timer=timer, clock=clock,
                           steps_per_epoch=_steps_per_epoch(context, settings),
                           resolution_at=settings.resolution_at if settings.progressive else None, checkpoints=checkpoints,
                           stop_requested=context.stop_requested, progress=context.progress))
        num_train_images = loader.num_samples

        resolution = settings.eval_resolution or settings.resolution
        plan = eval_plan(split_path(context, "data", "val"), settings.batch_size, resolution, settings.eval_crop, context)
        started = time.monotonic()
        with open_loader(plan) as val_loader:
            def score() -> dict[str, Any]:
                judged = FlipAverage(model) if settings.flip_tta else model
                return evaluate(judged, val_loader, device=context.device, precision=precision, num_classes=len(classes),
                                views={"own": View()})["own"].scores()

            val_of_last_step = score() if trainee.average else None
            with trainee.final_weights():
                val = score()
                models.save(context.folder / MODEL_FILE, model, _about(context, settings, arch, classes, eps))
        eval_s = time.monotonic() - started
        with loader.epoch(0) as batches:
            replay_img_per_s = replay_rate(trainee, *next(batches), train_s=clock.train_s)
    shutil.rmtree(checkpoints.folder, ignore_errors=True)

    metrics = {
        "val": val, "val_of_last_step": val_of_last_step, "train_loss": records[-1]["train_loss"], "epochs": records,
        "num_classes": len(classes), "num_train_images": num_train_images, "num_steps": clock.num_steps, "eps": eps,
        "eps_resolution": settings.attack.eps_at or settings.resolution,
        "eps_used": {str(side): settings.attack.eps_of(eps, side) for side in sorted({r["resolution"] for r in records})},
        "precision": precision,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "zero_gradients": clock.zero_gradients, "damaged_checkpoints": clock.damaged_checkpoints}
    timing = summary(clock.spans_s, num_steps=clock.num_steps, num_images=clock.num_images, train_s=clock.train_s,
                     eval_s=eval_s, checkpoint_s=clock.checkpoint_s, startup_s=startup_s, replay_img_per_s=replay_img_per_s)
    timing |= {"num_restarts": clock.num_restarts, "epochs": [record.pop("timing") for record in records]}
    return Outcome(metrics, timing)


def _steps_per_epoch(context: StageContext, settings: PretrainSettings) -> int | None:
    """The steps of an epoch over all of the source's images, where subsets train for as many; None: those of these images."""
    if settings.length == "equal_epochs" or "all_data" not in context.needs:
        return None
    plan = train_plan(split_path(context, "all_data", "train"), settings, 0, context)
    return num_batches(plan, open_beton(plan.beton).manifest.num_samples)


def _about(context: StageContext, settings: PretrainSettings, arch: str, classes: list[str], eps: float) -> dict[str, Any]:
    """What anyone who finds the weights has to know."""
    return {"arch": arch, "channels": list(settings.channels) if settings.channels else None, "classes": list(classes),
            "blur_pool": settings.blur_pool, "eps": eps,
            "norm": settings.attack.norm if eps > 0 else None, "resolution": settings.resolution,
            "seed": context.config["seed"], "stage": context.folder.name}
