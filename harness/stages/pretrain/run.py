"""Pretrain a model from random weights on a subset, with adversarial training if eps is above 0."""

import shutil
import time
from dataclasses import replace
from typing import Any, cast

from harness.config.attack import AttackSettings
from harness.config.train import PretrainSettings
from harness.matrix.scores import Scores
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.flops import peak_flops, training_flops
from harness.modeling.module_modes import cudnn_benchmark
from harness.modeling.precision import Precision
from harness.profiling.gpu_monitor import GpuMonitor
from harness.profiling.timer import Timer, summary
from harness.profiling.trace import StepTrace
from harness.runner.context import Outcome, StageContext
from harness.stages.pretrain.learner import new_learner
from harness.stages.pretrain.record import Epoch, PretrainMetrics, PretrainTiming
from harness.stages.pretrain.spec import MODEL_FILE, epoch_file
from harness.system.distributed import ProcessGroup
from harness.system.out_of_memory import is_out_of_memory
from harness.train import compile_choice, micro_batching
from harness.train.autotune import noise_batch
from harness.train.checkpoint import Checkpoints
from harness.train.cuda_graph_attack import CaptureFailedError
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.fit import Clock, Hooks, TrainingPlan, fit, num_batches
from harness.train.flip_tta import FlipAverage
from harness.train.loader_plans import (
    choose_interpolation,
    eval_plan,
    in_view,
    split_path,
    train_plan,
    without_held_out,
)
from harness.train.records import CompileMeasurement, EpochRecord
from harness.train.replay import replay_rate
from harness.train.step import TrainStep
from loaders import open_loader, preflight
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.text_names import counted


def run(context: StageContext) -> Outcome:
    """Train the model, save it as `model.pt`, and evaluate it on val."""
    started = time.monotonic()
    settings = PretrainSettings.model_validate(context.config["settings"])
    eps, seed, arch = context.config["eps"], context.config["seed"], context.config["arch"]
    attack = settings.attack if eps > 0 else None
    classes = context.needs["data"].metrics["classes"]
    timer, clock = Timer(context.device), Clock()

    for warning in preflight.warnings(_plan(context, settings, seed)):
        print(warning)  # into the stage's log
    learner = new_learner(context, settings, len(classes), timer)
    model, precision = learner.model, learner.config.precision
    checkpoints = context.folder / "checkpoints"
    trace = StepTrace(
        context.folder, context.trace_steps if context.group.is_main else 0, context.device
    )
    with (
        cudnn_benchmark(context.device),
        GpuMonitor(context.device) as monitor,
        open_loader(_plan(context, settings, seed)) as loader,
    ):
        _print_shares(context, settings, loader)
        compiling = _prepare(learner, settings, loader, len(classes), context)
        timer.clear()
        startup_s = time.monotonic() - started
        records = _train(learner, loader, settings, context, timer, clock, trace)
        started = time.monotonic()
        _show_phase(context, clock, "evaluation")
        val, val_of_last_step = _scores(learner, settings, context)
        if context.group.is_main:
            with learner.final_weights():
                classifier.save(
                    context.folder / MODEL_FILE,
                    model,
                    _about(context, settings, arch, classes, eps),
                )
        eval_s = (
            time.monotonic()
            - started
            + sum(record["timing"].get("eval_s", 0.0) for record in records)
        )
        _show_phase(context, clock, "speed without loading")
        with loader.epoch(len(records) - 1, settings.resolution) as batches:
            replay_img_per_s = replay_rate(
                learner,
                *next(batches),
                train_s=clock.train_s,
                group=context.group,
                num_images=clock.num_images,
            )
        num_train_images = loader.num_samples
    if context.group.is_main:
        shutil.rmtree(checkpoints, ignore_errors=True)

    sides = sorted({record["resolution"] for record in records})
    metrics: PretrainMetrics = {
        "val": val,
        "val_of_last_step": val_of_last_step,
        "train_loss": records[-1]["train_loss"],
        "epochs": [_without_timing(record) for record in records],
        "num_classes": len(classes),
        "num_train_images": num_train_images,
        "num_steps": clock.num_steps,
        "eps": eps,
        "eps_resolution": settings.attack.eps_at or settings.resolution,
        "eps_used": {str(side): settings.attack.eps_of(eps, side) for side in sides},
        "precision": precision,
        "compiled": learner.compile_mode,
        "num_parts": learner.num_micro_batches,
        "num_processes": context.group.world_size,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "zero_gradients": clock.zero_gradients,
        "damaged_checkpoints": clock.damaged_checkpoints,
    }
    if "first_epochs" in context.config:
        metrics["epoch_models"] = [epoch_file(record["epoch"]) for record in records]
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
    more: PretrainTiming = {
        "num_restarts": clock.num_restarts,
        "epochs": [record["timing"] for record in records],
        "compile": compiling,
        "gpu": gpu,
        "trace": trace.file,
    }
    return Outcome(metrics, {**timing, **more})


def _show_phase(context: StageContext, clock: Clock, name: str) -> None:
    """Show which phase follows the last step; a phase may take as long as many steps."""
    context.progress(done=clock.num_steps, total=clock.num_steps, note=name)


def _without_timing(record: EpochRecord) -> Epoch:
    return cast(Epoch, {key: value for key, value in record.items() if key != "timing"})


def _plan(context: StageContext, settings: PretrainSettings, seed: int) -> LoaderPlan:
    plan = replace(
        train_plan(
            split_path(context, "data", "train"),
            settings,
            seed,
            context,
            choose_interpolation(settings.interpolation, {}),
        ),
        order=settings.order,
    )
    part = context.config.get("held_out")
    plan = in_view(plan, context, "data", "train")
    return without_held_out(plan, part) if part else plan


def _print_shares(context: StageContext, settings: PretrainSettings, loader: Loader) -> None:
    """Print how many images of a batch this process gets, if there are several processes.

    Raises:
        UserError: there are fewer than two images per process.
    """
    group, plan = context.group, loader.plan
    if group.world_size == 1:
        return
    if loader.num_samples < 2 * group.world_size:
        raise UserError(
            f"{plan.beton} has {counted(loader.num_samples, 'image')} for {group.world_size} "
            "processes; each needs two.",
            "Use fewer processes.",
        )
    print(
        f"Process {group.rank} of {group.world_size} on {context.device}: "
        f"{plan.local_batch_size} of the {plan.batch_size} images of a batch; "
        f"the peak learning rate, {settings.optimizer.lr:g}, is that of whole batches.",
        flush=True,
    )


def local_batch_size(loader: Loader, group: ProcessGroup) -> int:
    """Return the number of images per step on one rank.

    It is the rank's part of a full batch, or of the whole data if the data has fewer images.
    """
    return min(loader.plan.local_batch_size, -(-loader.num_samples // group.world_size))


def _prepare(
    learner: TrainStep,
    settings: PretrainSettings,
    loader: Loader,
    num_classes: int,
    context: StageContext,
) -> CompileMeasurement:
    """Choose the number of micro-batches and the compile mode by trial steps on noise.

    Returns:
        The times of the compile modes, and the chosen mode.
    """
    group, device = context.group, context.device
    batch_size = local_batch_size(loader, group)
    batch = noise_batch(batch_size, settings.resolution, num_classes, device)
    parts = micro_batching.choose_micro_batches(learner, settings.accumulate, batch, context.folder)
    learner.use_micro_batches(max(group.all_gather(parts)))
    if settings.compile == "off":
        return {"chosen": "eager"}
    measured: CompileMeasurement = group.broadcast(
        compile_choice.choose(learner, batch, settings.compile, device, context.folder)
    )
    if learner.compile_mode != measured["chosen"]:
        learner.compile(measured["chosen"], batch_size)
    if settings.compile == "auto" and group.is_main:
        compile_choice.record(context.folder, measured)
    return measured


def _train(
    learner: TrainStep,
    loader: Loader,
    settings: PretrainSettings,
    context: StageContext,
    timer: Timer,
    clock: Clock,
    trace: StepTrace,
) -> list[EpochRecord]:
    """Train, and return the records of all epochs.

    Raises:
        UserError: the batch does not fit in memory. The message names the size that fits.
        RestartRequiredError: the capture of a CUDA graph failed. The next attempt uses another
            compile mode.
    """
    plan = TrainingPlan(
        settings.optimizer,
        settings.epochs,
        steps_per_epoch=_steps_per_epoch(context, settings),
        resolution_at=settings.resolution_at if settings.progressive else None,
    )
    first_epochs = context.config.get("first_epochs")
    num_steps = _num_steps(plan, loader, first_epochs)

    def progress(**values: Any) -> None:
        context.progress(**{**values, "total": num_steps})

    try:
        passes = fit(
            learner,
            loader,
            plan,
            timer=timer,
            clock=clock,
            checkpoints=Checkpoints(
                context.folder / "checkpoints",
                context.device,
                context.checkpoint_every_s,
                context.group,
            ),
            hooks=Hooks(context.stop_requested, progress, trace.after_step),
        )
        records = []
        for record in passes:
            records.append(record)
            # After a resume, the record of the last epoch may lack its scores. The epoch can still
            # be evaluated, because the checkpoint has its weights.
            if (
                settings.eval_every
                and record["epoch"] % settings.eval_every == 0
                and "val" not in record
            ):
                started = time.monotonic()
                progress(done=clock.num_steps, note=f"evaluation after epoch {record['epoch']}")
                record["val"], _ = _scores(learner, settings, context)
                record["timing"]["eval_s"] = time.monotonic() - started
            context.record_epochs([_without_timing(each) for each in records])
            if first_epochs:
                _save_epoch(learner, record["epoch"], settings, context)
                if record["epoch"] == first_epochs:
                    break
        return records
    except CaptureFailedError as error:  # raised at the first batch of a resolution
        mode = learner.compile_mode
        raise compile_choice.restart_without(context.folder, mode, str(error)[:200]) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    finally:
        trace.close()
    # Outside the except block: the traceback would keep the step's tensors alive.
    batch = noise_batch(
        local_batch_size(loader, context.group),
        settings.resolution,
        learner.model.head.out_features,
        context.device,
    )
    raise micro_batching.out_of_memory(
        learner,
        batch,
        context.folder,
        None if settings.attack.method == "free" else settings.accumulate,
        context.group.world_size,
    )


def _num_steps(plan: TrainingPlan, loader: Loader, first_epochs: int | None) -> int:
    """Return the number of steps of the training, which may end after `first_epochs`.

    Args:
        plan: the whole training.
        loader: loader of the training images.
        first_epochs: number of passes after which the training ends; None trains to the end.
    """
    steps_per_pass = num_batches(loader.plan, loader.num_samples)
    num_steps = plan.num_epochs * (plan.steps_per_epoch or steps_per_pass)
    return min(num_steps, first_epochs * steps_per_pass) if first_epochs else num_steps


def _save_epoch(
    learner: TrainStep, epoch: int, settings: PretrainSettings, context: StageContext
) -> None:
    """Save the weights after an epoch, unless an earlier attempt has saved them."""
    file = context.folder / epoch_file(epoch)
    if context.group.is_main and not file.exists():
        classes, config = context.needs["data"].metrics["classes"], context.config
        about = _about(context, settings, config["arch"], classes, config["eps"])
        with learner.final_weights():
            classifier.save(file, learner.model, about)


def _scores(
    learner: TrainStep,
    settings: PretrainSettings,
    context: StageContext,
) -> tuple[Scores, Scores | None]:
    """Score the final weights on val, and the last step's weights if the final ones are averages.

    Returns:
        Scores of the final weights, and of the last step's weights or None.
    """
    plan = eval_plan(
        split_path(context, "data", "val"),
        settings.batch_size,
        settings.eval_resolution or settings.resolution,
        settings.eval_crop,
        context,
        choose_interpolation(settings.interpolation, {}),
    )
    plan = in_view(plan, context, "data", "val")
    evaluated = FlipAverage(learner.model) if settings.flip_tta else learner.model
    with open_loader(plan) as loader:

        def score() -> Scores:
            return evaluate(
                evaluated,
                loader,
                EvaluationPlan(
                    device=context.device,
                    precision=learner.config.precision,
                    num_classes=learner.model.head.out_features,
                    views={"own": View()},
                    group=context.group,
                ),
            )["own"].scores()

        of_last_step = score() if learner.has_ema else None
        with learner.final_weights():
            return score(), of_last_step


def _flops(
    model: Classifier, attack: AttackSettings | None, records: list[EpochRecord]
) -> float | None:
    """Return the operations of the whole training; None if they cannot be counted."""
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
    """Return the peak FLOP/s summed over all ranks; None on a CPU and for an unknown GPU model."""
    peak = peak_flops(gpu["name"], precision) if gpu else None
    return peak * group.world_size if peak else None


def _steps_per_epoch(context: StageContext, settings: PretrainSettings) -> int | None:
    """Return the steps of an epoch over all classes of the source, for `length: equal_steps`.

    None means that an epoch is one pass over the stage's own images.
    """
    if settings.length == "equal_epochs" or "all_data" not in context.needs:
        return None
    plan = train_plan(split_path(context, "all_data", "train"), settings, 0, context)
    return num_batches(plan, open_beton(plan.beton).manifest.num_samples)


def _about(
    context: StageContext, settings: PretrainSettings, arch: str, classes: list[str], eps: float
) -> dict[str, Any]:
    """Return the metadata that is saved with the weights."""
    return {
        "arch": arch,
        "channels": list(settings.channels) if settings.channels else None,
        "classes": list(classes),
        "blur_pool": settings.blur_pool,
        "batch_norm_scale": settings.batch_norm_scale,
        "eps": eps,
        "norm": settings.attack.norm if eps > 0 else None,
        "resolution": settings.resolution,
        "interpolation": choose_interpolation(settings.interpolation, {}),
        "seed": context.config["seed"],
        "held_out": context.config.get("held_out"),
        "stage": context.folder.name,
    }
