"""SGD with momentum, and which parameters weight decay pulls on."""

import torch
from torch import nn

from harness.settings import ScheduleSettings

DECAYED = (nn.Linear, nn.modules.conv._ConvNd)


def make_sgd(model: nn.Module, settings: ScheduleSettings, lr: float) -> torch.optim.SGD:
    """SGD over the parameters that require gradients: weights of convolutions and linear layers decay; biases and the
    parameters of normalisation do not, unless `settings.decay_norm_and_bias`.

    By the type of the module, not by name: "bn" is not in the name of a ResNet's `downsample.1`.
    """
    weights = {id(module.weight) for module in model.modules() if isinstance(module, DECAYED)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if settings.decay_norm_and_bias or id(parameter) in weights else others).append(parameter)
    assert decayed or others, "a model without parameters to train"
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = any(parameter.is_cuda for parameter in decayed + others)
    return torch.optim.SGD([group for group in groups if group["params"]], lr=lr, momentum=settings.momentum,
                           nesterov=settings.nesterov, fused=on_gpu)    # one kernel a group, and no wait under GradScaler


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
