"""SGD with momentum, and which parameters weight decay pulls on."""

import torch
from torch import nn

from harness.train_settings import ScheduleSettings

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
    device = (decayed + others)[0].device
    # Fused: one kernel a group, no wait under GradScaler, and a rate that stays on the device.
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=torch.tensor(lr, device=device),
                                momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    optimizer.register_load_state_dict_post_hook(lambda loaded: _rates_to(loaded, device))
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next steps, on the device. Does not wait for the GPU."""
    for group in optimizer.param_groups:
        group["lr"].fill_(lr)


def _rates_to(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Checkpoints are read on the CPU, and torch leaves a group's plain values where they were read."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].to(device)
