"""Write harness/estimate/network_costs.csv: operations and activations of networks.

    python -m benchmarks.network_costs NAME... > harness/estimate/network_costs.csv

A name is a module of harness/modeling/archs, or torchvision/NAME or timm/NAME. The counts are for a
forward pass of one image at the network's own resolution (224 px for those of
harness/modeling/archs), without the last layer. `harness plan` predicts GPU-hours from the counts.
"""

import csv
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from harness.modeling import zoo
from harness.modeling.flops import FlopCounter
from writers import names

FIELDS = ("model", "resolution", "gflop", "mega_activations")


class _Counter(FlopCounter):
    """FlopCounter that also counts the elements that convolutions and matrix products write."""

    num_activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func._overloadpacket in flop_registry:
            self.num_activations += (out[0] if isinstance(out, tuple) else out).numel()
        return out


def count(name: str) -> tuple[int, float, float]:
    """Return the resolution in pixels, FLOPs per image, and activations per image."""
    try:
        with torch.device("meta"):
            network, resolution = _build(name)
    except (NotImplementedError, RuntimeError):  # some constructors need the values of tensors
        network, resolution = _build(name)
    network, image = network.to("meta"), torch.zeros(1, 3, resolution, resolution, device="meta")
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        network.eval()(image)
    return resolution, float(counter.num_flops), float(counter.num_activations)


def _build(name: str) -> tuple[nn.Module, int]:
    if "/" in name:
        network = zoo.build(name)
        return network.backbone, network.resolution
    return names.find("harness.modeling.archs", name, "model").build(1000, None)[0], 224


def main(names: list[str]) -> None:
    """Print the table as CSV. Networks that cannot be counted are named on stderr."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(FIELDS)
    for name in names:
        try:
            resolution, flops, activations = count(name)
        except Exception as error:  # libraries raise many classes of errors
            print(f"{name}: {type(error).__name__} {error}"[:200], file=sys.stderr)
            continue
        table.writerow((name, resolution, f"{flops / 1e9:.4g}", f"{activations / 1e6:.4g}"))


if __name__ == "__main__":
    main(sys.argv[1:])
