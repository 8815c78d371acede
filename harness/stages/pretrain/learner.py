"""Build the network of a pretrain stage and its training step."""

import torch

from harness.config.train import PretrainSettings
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.precision import choose
from harness.modeling.regularizers import AuxiliaryHead, fix_batch_norm_scale
from harness.profiling.timer import Timer
from harness.runner.context import StageContext
from harness.system.distributed import convert_sync_batch_norm
from harness.train.optimizer import make_sgd
from harness.train.step import RANK_SEED_STRIDE, StepConfig, TrainStep, make_step
from writers.errors import UserError


def new_learner(
    context: StageContext, settings: PretrainSettings, num_classes: int, timer: Timer
) -> TrainStep:
    """Build a network with random weights, and its training step.

    Uses `arch`, `seed` and `eps` of the context's config, and the context's device and ranks.

    Raises:
        UserError: the architecture is unknown, or a setting does not fit it or the device.
    """
    model, eps = _build(context, settings, num_classes), context.config["eps"]
    return make_step(
        model.train(),
        make_sgd(model, settings.optimizer, settings.optimizer.lr),
        StepConfig(
            peak_lr=settings.optimizer.lr,
            device=context.device,
            precision=choose(settings.precision, context.device),
            label_smoothing=settings.label_smoothing,
            attack=settings.attack if eps > 0 else None,
            eps=eps,
            seed=context.config["seed"],
            ema_decay=settings.ema_decay,
        ),
        timer,
        group=context.group,
    )


def _build(context: StageContext, settings: PretrainSettings, num_classes: int) -> Classifier:
    """Build the network on the device, with random weights that are equal in all processes."""
    arch, seed, group = context.config["arch"], context.config["seed"], context.group
    synchronized = settings.sync_batch_norm and group.world_size > 1
    if synchronized and not context.device.startswith("cuda"):
        raise UserError(
            "sync_batch_norm needs GPUs: torch has no SyncBatchNorm for processes on a CPU.",
            "Remove it, or train in one process.",
        )
    torch.manual_seed(seed)
    model = classifier.build(
        arch,
        num_classes,
        channels=settings.channels,
        blur_pool=settings.blur_pool,
        batch_norm_scale=settings.batch_norm_scale or synchronized,
    )
    model.dropout = settings.dropout
    if settings.aux_head:
        model.auxiliary = AuxiliaryHead(model.backbone, num_classes)
    if synchronized:
        convert_sync_batch_norm(model, group)
        # Do this after the conversion: torch can only convert layers that have a scale parameter.
        if not settings.batch_norm_scale:
            fix_batch_norm_scale(model.backbone, arch)
    if group.rank:
        # Seed each process differently, so that dropout does not drop the same units in all.
        torch.manual_seed(seed + group.rank * RANK_SEED_STRIDE)
    return model.to(context.device)
