"""SGD with momentum, and the parameters that weight decay applies to."""

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from harness.config.train import ScheduleSettings

DECAYED = (nn.Linear, nn.modules.conv._ConvNd)


class Sgd(torch.optim.SGD):
    """torch's SGD without the wrappers that exclude it from torch.compile.

    The wrappers import the compiler at their first call, which takes 1.6 to 2.7 s on two CPU cores,
    longer than a small fine-tune. Only the model's part of a step is compiled, never the optimizer.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)


def weights_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights of convolutions and linear layers, without biases and normalization."""
    for module in model.modules():
        if isinstance(module, DECAYED):
            assert isinstance(module.weight, nn.Parameter)
            yield module.weight


def make_sgd(
    model: nn.Module,
    settings: ScheduleSettings,
    lr: float,
    lr_ratios: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.SGD:
    """Build SGD over the parameters that require gradients.

    Weights of convolutions and linear layers decay. Biases and normalization parameters decay only
    with `settings.decay_norm_and_bias`. Parameters are selected by the type of their module, not by
    name: a ResNet's `downsample.1` is a BatchNorm without "bn" in its name.

    Args:
        model: The model.
        settings: Momentum and weight decay.
        lr: Learning rate.
        lr_ratios: Learning rate of a parameter divided by `lr`; 1 if it is not listed.
    """
    weights = set(weights_of(model))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for decay in (settings.weight_decay, 0.0):  # the order of groups in checkpoints
        groups.setdefault((1.0, decay), [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = (
                settings.weight_decay
                if settings.decay_norm_and_bias or parameter in weights
                else 0.0
            )
            groups.setdefault(((lr_ratios or {}).get(parameter, 1.0), decay), []).append(parameter)
    groups = {key: group for key, group in groups.items() if group}
    assert groups, "the model has no parameters to train"
    device = next(iter(groups.values()))[0].device
    # Fused: one kernel per group, no synchronization with GradScaler, learning rate on the device.
    optimizer = Sgd(
        [
            {
                "params": group,
                "weight_decay": decay,
                "lr": torch.tensor(ratio * lr, device=device),
                "lr_ratio": ratio,
            }
            for (ratio, decay), group in groups.items()
        ],
        lr=torch.tensor(lr, device=device),
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=True,
    )
    if settings.momentum:
        # torch would allocate them at the first step, and leave them uninitialized if that step
        # overflows with GradScaler.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_post_hook(lambda loaded: _move_rates(loaded, device))
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate, times each group's ratio. Does not wait for the GPU."""
    for group in optimizer.param_groups:
        # Checkpoints of older versions have no ratio.
        group["lr"].fill_(group.get("lr_ratio", 1.0) * lr)


def _move_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move learning rates to the device: checkpoints are read on the CPU, and torch leaves them."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].to(device)
