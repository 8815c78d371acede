"""SGD with momentum, and which parameters weight decay pulls on."""

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from harness.config.train import ScheduleSettings

DECAYED = (nn.Linear, nn.modules.conv._ConvNd)


class Sgd(torch.optim.SGD):
    """torch's own, without the wrappers that keep torch.compile out of it: at their first call they import the whole compiler,
    longer than a small fine-tune takes. We compile the model's part of a step and never the optimizer's."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)


def weights_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of convolutions and linear layers: no biases, no normalisation."""
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
    """SGD over the parameters that require gradients: weights of convolutions and linear layers decay; biases and the
    parameters of normalisation do not, unless `settings.decay_norm_and_bias`.

    By the type of the module, not by name: "bn" is not in the name of a ResNet's `downsample.1`.
    lr_ratios: of a parameter's rate to `lr`, where it is not 1.
    """
    weights = set(weights_of(model))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for decay in (settings.weight_decay, 0.0):  # first what decays, as checkpoints have them
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
    assert groups, "a model without parameters to train"
    device = next(iter(groups.values()))[0].device
    # Fused: one kernel a group, no wait under GradScaler, and a rate that stays on the device.
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
        # torch allocates them at the first step, and where that overflows under GradScaler leaves in them what lay there.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_post_hook(lambda loaded: _rates_to(loaded, device))
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next steps, on the device: times each group's ratio. Does not wait for the GPU."""
    for group in optimizer.param_groups:
        group["lr"].fill_(
            group.get("lr_ratio", 1.0) * lr
        )  # a checkpoint from before there were ratios has none


def _rates_to(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Checkpoints are read on the CPU, and torch leaves a group's plain values where they were read."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].to(device)
