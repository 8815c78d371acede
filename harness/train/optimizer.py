"""Build SGD with momentum, and select the parameters that weight decay applies to."""

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from harness.config.train import ScheduleSettings

DECAYED = (nn.Linear, nn.modules.conv._ConvNd)


class Sgd(torch.optim.SGD):
    """torch's SGD without the wrappers that exclude its methods from torch.compile.

    At their first call the wrappers import the compiler, which takes 1.6 to 2.7 s on two CPU cores,
    longer than a small fine-tuning. They are not needed, because the optimizer is never compiled.
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

    Weight decay applies to the weights of convolutions and linear layers, and to biases and
    normalization parameters only with `settings.decay_norm_and_bias`. Parameters are selected by
    the type of their module, not by name: a ResNet's `downsample.1` is a BatchNorm without "bn" in
    its name.

    Args:
        model: Model to train.
        settings: Momentum and weight decay.
        lr: Initial learning rate.
        lr_ratios: Parameter -> its learning rate divided by `lr`; 1 for a parameter that is not
            listed.
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
    # The fused form has one kernel per group, does not wait for the GPU with GradScaler, and reads
    # the learning rate from the device.
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
        # Allocate the momentum buffers now. torch would do so at the first step, and would leave
        # them uninitialized if GradScaler finds an overflow in that step.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_post_hook(lambda loaded: _move_rates(loaded, device))
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each group's learning rate to `lr` times its ratio. Does not wait for the GPU."""
    for group in optimizer.param_groups:
        # Groups in checkpoints of older versions have no ratio.
        group["lr"].fill_(group.get("lr_ratio", 1.0) * lr)


def _move_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move learning rates to the device: torch leaves those of a loaded checkpoint on the CPU."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].to(device)
