"""Pretrains one model from random weights on one subset; adversarially where eps is above 0. Leaves `model.pt`."""

import shutil
import time
from dataclasses import replace
from typing import Any

import torch

from harness.config.attack import AttackSettings
from harness.config.train import PretrainSettings
from harness.modeling import classifier as models
from harness.modeling.classifier import Classifier
from harness.modeling.flops import peak_flops, training_flops
from harness.modeling.module_modes import fixed_shapes
from harness.modeling.precision import Precision, choose
from harness.modeling.regularizers import AuxiliaryHead, fix_batch_norm_scale
from harness.profiling.gpu_monitor import GpuMonitor
from harness.profiling.timer import Timer, summary
from harness.profiling.trace import StepTrace
from harness.runner.context import Outcome, StageContext
from harness.stages.pretrain.spec import MODEL_FILE
from harness.system.distributed import ProcessGroup, convert_sync_batch_norm
from harness.system.out_of_memory import is_out_of_memory
from harness.train import autotune as trial
from harness.train import micro_batching as memory
from harness.train.evaluate import View, evaluate
from harness.train.fit import Checkpoints, Clock, Record, fit, num_batches
from harness.train.flip_tta import FlipAverage
from harness.train.loader_plans import eval_plan, held_out, split_path, train_plan
from harness.train.step import RANK_SEEDS
from harness.train.trainee import ModelTrainee, replay_rate
from loaders import open_loader, preflight
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.beton.store import open_beton
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Metrics: accuracies on val, the epochs' losses, what was trained on. Timing: see harness.profiling.timer.summary; epoch by epoch
    in `epochs`; what compiling was measured to do in `compile`; the GPU in `gpu`; `trace`, the file, where one was asked for.
    """
    started = time.monotonic()
    settings = PretrainSettings.model_validate(context.config["settings"])
    eps, seed, arch = context.config["eps"], context.config["seed"], context.config["arch"]
    attack = settings.attack if eps > 0 else None
    classes = context.needs["data"].metrics["classes"]
    timer, clock = Timer(context.device), Clock()

    for warning in preflight.warnings(_plan(context, settings, seed)):
        print(warning)  # into the stage's log
    trainee = new_trainee(context, settings, len(classes), timer)
    model, precision = trainee.model, trainee.step.precision
    checkpoints = context.folder / "checkpoints"
    trace = StepTrace(
        context.folder, context.trace_steps if context.group.is_main else 0, context.device
    )
    with (
        fixed_shapes(context.device),
        GpuMonitor(context.device) as monitor,
        open_loader(_plan(context, settings, seed)) as loader,
    ):
        _say_what_is_shared(context, settings, loader)
        compiling = _prepare(trainee, settings, loader, len(classes), context)
        timer.clear()
        startup_s = time.monotonic() - started
        records = _train(trainee, loader, settings, context, timer, clock, trace)
        started = time.monotonic()
        val, val_of_last_step = _scores(trainee, settings, context)
        if context.group.is_main:
            with trainee.final_weights():
                models.save(
                    context.folder / MODEL_FILE,
                    model,
                    _about(context, settings, arch, classes, eps),
                )
        eval_s = (
            time.monotonic()
            - started
            + sum(record["timing"].get("eval_s", 0.0) for record in records)
        )
        with loader.epoch(len(records) - 1, settings.resolution) as batches:
            replay_img_per_s = replay_rate(
                trainee, *next(batches), train_s=clock.train_s, group=context.group
            )
        num_train_images = loader.num_samples
    if context.group.is_main:
        shutil.rmtree(checkpoints, ignore_errors=True)

    sides = sorted({record["resolution"] for record in records})
    metrics = {
        "val": val,
        "val_of_last_step": val_of_last_step,
        "train_loss": records[-1]["train_loss"],
        "epochs": [
            {key: value for key, value in record.items() if key != "timing"} for record in records
        ],
        "num_classes": len(classes),
        "num_train_images": num_train_images,
        "num_steps": clock.num_steps,
        "eps": eps,
        "eps_resolution": settings.attack.eps_at or settings.resolution,
        "eps_used": {str(side): settings.attack.eps_of(eps, side) for side in sides},
        "precision": precision,
        "compiled": trainee.compiled,
        "num_parts": trainee.step.num_parts,
        "num_processes": context.group.world_size,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "zero_gradients": clock.zero_gradients,
        "damaged_checkpoints": clock.damaged_checkpoints,
    }
    gpu = monitor.summary()
    timing = summary(
        clock.spans_s,
        num_steps=clock.num_steps,
        num_images=clock.num_images,
        train_s=clock.train_s,
        eval_s=eval_s,
        checkpoint_s=clock.checkpoint_s,
        startup_s=startup_s,
        replay_img_per_s=replay_img_per_s,
        flops=_flops(model, attack, records),
        peak_flops_per_s=_peak_flops(gpu, precision, context.group),
    )
    timing |= {
        "num_restarts": clock.num_restarts,
        "epochs": [record["timing"] for record in records],
        "compile": compiling,
        "gpu": gpu,
        "trace": trace.file,
    }
    return Outcome(metrics, timing)


def _plan(context: StageContext, settings: PretrainSettings, seed: int) -> LoaderPlan:
    plan = replace(
        train_plan(split_path(context, "data", "train"), settings, seed, context),
        order=settings.order,
    )
    asked = context.config.get("held_out")
    return held_out(plan, asked, only=False) if asked else plan


def new_trainee(
    context: StageContext, settings: PretrainSettings, num_classes: int, timer: Timer
) -> ModelTrainee:
    """With random weights. Looked at of the context: arch, seed and eps of its config, device, group."""
    model, eps = _build(context, settings, num_classes), context.config["eps"]
    return ModelTrainee(
        model,
        settings.optimizer,
        settings.optimizer.lr,
        device=context.device,
        precision=choose(settings.precision, context.device),
        label_smoothing=settings.label_smoothing,
        timer=timer,
        train_mode=model.train,
        attack=settings.attack if eps > 0 else None,
        eps=eps,
        seed=context.config["seed"],
        ema_decay=settings.ema_decay,
        group=context.group,
    )


def _build(context: StageContext, settings: PretrainSettings, num_classes: int) -> Classifier:
    """On the device, with random weights that are the same in all processes."""
    arch, seed, group = context.config["arch"], context.config["seed"], context.group
    synchronised = settings.sync_batch_norm and group.world_size > 1
    if synchronised and not context.device.startswith("cuda"):
        raise UserError(
            "sync_batch_norm needs GPUs: torch has no SyncBatchNorm for several processes on a CPU.",
            "Leave it out, or train in one process, where a batch is whole.",
        )
    torch.manual_seed(seed)
    model = models.build(
        arch,
        num_classes,
        channels=settings.channels,
        blur_pool=settings.blur_pool,
        batch_norm_scale=settings.batch_norm_scale or synchronised,
    )
    model.dropout = settings.dropout
    if settings.aux_head:
        model.auxiliary = AuxiliaryHead(model.backbone, num_classes)
    if synchronised:
        convert_sync_batch_norm(model, group)
        if (
            not settings.batch_norm_scale
        ):  # only now: torch wants what it replaces to have a parameter for a scale
            fix_batch_norm_scale(model.backbone, arch)
    if group.rank:
        torch.manual_seed(
            seed + group.rank * RANK_SEEDS
        )  # dropout falls on other units than in the first process
    return model.to(context.device)


def _say_what_is_shared(context: StageContext, settings: PretrainSettings, loader: Loader) -> None:
    """In each process's log. Raises UserError where there are too few images to share."""
    group, plan = context.group, loader.plan
    if group.world_size == 1:
        return
    if loader.num_samples < 2 * group.world_size:
        raise UserError(
            f"{plan.beton} has {loader.num_samples} images for {group.world_size} processes; each needs two.",
            "Use fewer.",
        )
    print(
        f"Process {group.rank} of {group.world_size} on {context.device}: {plan.share} of the {plan.batch_size} images of a "
        f"batch; the peak learning rate, {settings.optimizer.lr:g}, is that of whole batches.",
        flush=True,
    )


def _prepare(
    trainee: ModelTrainee,
    settings: PretrainSettings,
    loader: Loader,
    num_classes: int,
    context: StageContext,
) -> dict[str, Any]:
    """Choose the parts of a batch and whether to compile, on noise; returns what compiling was measured to do."""
    group, device = context.group, context.device
    trainee.batch_size = min(loader.plan.share, -(-loader.num_samples // group.world_size))
    batch = trial.noise_batch(trainee.batch_size, settings.resolution, num_classes, device)
    parts = memory.choose_parts(trainee, settings.accumulate, batch, context.folder)
    trainee.step.num_parts = max(group.all_gather(parts))
    if settings.compile == "off":
        return {"chosen": "eager"}
    measured: dict[str, Any] = group.broadcast(
        trial.choose_compiled(trainee, batch, settings.compile, device)
    )
    if trainee.compiled != measured["chosen"]:
        trainee.compile(measured["chosen"])
    return measured


def _train(
    trainee: ModelTrainee,
    loader: Loader,
    settings: PretrainSettings,
    context: StageContext,
    timer: Timer,
    clock: Clock,
    trace: StepTrace,
) -> list[Record]:
    """The records of all epochs. Raises UserError with the batch that fits, where this one does not."""
    try:
        passes = fit(
            trainee,
            loader,
            settings.optimizer,
            num_epochs=settings.epochs,
            timer=timer,
            clock=clock,
            steps_per_epoch=_steps_per_epoch(context, settings),
            resolution_at=settings.resolution_at if settings.progressive else None,
            checkpoints=Checkpoints(
                context.folder / "checkpoints",
                context.device,
                context.checkpoint_every_s,
                context.group,
            ),
            stop_requested=context.stop_requested,
            progress=context.progress,
            after_step=trace.after_step,
        )
        records = []
        for record in passes:
            records.append(record)
            # One from before a resume has its scores, except the last where its checkpoint was: there the weights are as then.
            if (
                settings.eval_every
                and record["epoch"] % settings.eval_every == 0
                and "val" not in record
            ):
                started = time.monotonic()
                record["val"], _ = _scores(trainee, settings, context)
                record["timing"]["eval_s"] = time.monotonic() - started
        return records
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    finally:
        trace.close()
    # Behind the handler, where the error no longer holds on to the memory of the step that failed.
    batch = trial.noise_batch(
        trainee.batch_size, settings.resolution, trainee.model.head.out_features, context.device
    )
    trainee.step.alone = True  # other processes may have had room enough, and wait
    raise memory.out_of_memory(
        trainee,
        batch,
        context.folder,
        None if settings.attack.method == "free" else settings.accumulate,
        context.group.world_size,
    )


def _scores(
    trainee: ModelTrainee,
    settings: PretrainSettings,
    context: StageContext,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """On val, of the weights that are kept; and, where those are averaged, of the last step's."""
    plan = eval_plan(
        split_path(context, "data", "val"),
        settings.batch_size,
        settings.eval_resolution or settings.resolution,
        settings.eval_crop,
        context,
    )
    judged = FlipAverage(trainee.model) if settings.flip_tta else trainee.model
    with open_loader(plan) as loader:

        def score() -> dict[str, Any]:
            return evaluate(
                judged,
                loader,
                device=context.device,
                precision=trainee.step.precision,
                num_classes=trainee.model.head.out_features,
                views={"own": View()},
                group=context.group,
            )["own"].scores()

        of_last_step = score() if trainee.average else None
        with trainee.final_weights():
            return score(), of_last_step


def _flops(model: Classifier, attack: AttackSettings | None, records: list[Record]) -> float | None:
    """Of the whole training; None where they cannot be counted."""
    total = 0.0
    for side in {record["resolution"] for record in records}:
        of_an_image = training_flops(model, side, attack)
        if of_an_image is None:
            return None
        total += of_an_image * sum(
            record["num_images"] for record in records if record["resolution"] == side
        )
    return total


def _peak_flops(
    gpu: dict[str, Any] | None, precision: Precision, group: ProcessGroup
) -> float | None:
    """Of all GPUs together."""
    peak = peak_flops(gpu["name"], precision) if gpu else None
    return peak * group.world_size if peak else None


def _steps_per_epoch(context: StageContext, settings: PretrainSettings) -> int | None:
    """The steps of an epoch over all of the source's images, where subsets train for as many; None: those of these images."""
    if settings.length == "equal_epochs" or "all_data" not in context.needs:
        return None
    plan = train_plan(split_path(context, "all_data", "train"), settings, 0, context)
    return num_batches(plan, open_beton(plan.beton).manifest.num_samples)


def _about(
    context: StageContext, settings: PretrainSettings, arch: str, classes: list[str], eps: float
) -> dict[str, Any]:
    """What anyone who finds the weights has to know."""
    return {
        "arch": arch,
        "channels": list(settings.channels) if settings.channels else None,
        "classes": list(classes),
        "blur_pool": settings.blur_pool,
        "batch_norm_scale": settings.batch_norm_scale,
        "eps": eps,
        "norm": settings.attack.norm if eps > 0 else None,
        "resolution": settings.resolution,
        "seed": context.config["seed"],
        "held_out": context.config.get("held_out"),
        "stage": context.folder.name,
    }
