"""Find the blocks of any network in forward order, and group them into stages.

timm's networks define their blocks as groups of names (`group_matcher`). In other networks the
blocks follow from the module tree. Each entry of a list of modules is a block. Outside of lists,
each layer with a weight matrix starts a block. A stage is a sequence of blocks whose outputs
have the same shape, found by a forward pass. If there is only one stage after the stem, as in
vision transformers, each block is a stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from harness.modeling.module_modes import eval_mode

MIN_RESOLUTION = 224  # pixels: smaller images shrink to one pixel before the last block
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# If a list of blocks contains more than this fraction of a module's weights, the module is divided
# into the blocks of the list and the module's other layers.
MIN_BLOCK_FRACTION = 0.9


@dataclass(frozen=True)
class Block:
    """A block of a network: the names of its parameters and buffers in the state_dict."""

    names: tuple[str, ...]

    def parameters(self, backbone: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of the block, in the backbone's order."""
        own = set(self.names)
        return [parameter for name, parameter in backbone.named_parameters() if name in own]

    def layers(self, backbone: nn.Module) -> list[nn.Module]:
        """Return the modules that directly contain the block's parameters and buffers."""
        return [
            backbone.get_submodule(owner)
            for owner in dict.fromkeys(name.rpartition(".")[0] for name in self.names)
        ]


def blocks_of(backbone: nn.Module) -> list[Block]:
    """List the blocks from input to features. Each parameter and buffer is in exactly one block."""
    names = [
        *(name for name, _ in backbone.named_parameters()),
        *(name for name, _ in backbone.named_buffers()),
    ]
    groups = (
        _blocks_by_timm(backbone, names)
        if hasattr(backbone, "group_matcher")
        else list(_blocks_by_module_tree(backbone))
    )
    assert sorted(name for group in groups for name in group) == sorted(names)
    return [Block(tuple(group)) for group in groups]


def stages_of(backbone: nn.Module, resolution: int) -> list[list[Block]]:
    """Group blocks into stages; the stem is stage 0.

    Args:
        backbone: maps images to features.
        resolution: side of the images, in pixels.
    """
    blocks = blocks_of(backbone)
    shapes: dict[int, tuple[int, ...]] = {}

    def remember(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[number] = tuple(output.shape)

        return hook

    hooks = [
        module_of(backbone, block).register_forward_hook(remember(number))
        for number, block in enumerate(blocks)
    ]
    side = max(MIN_RESOLUTION, resolution)
    try:
        with eval_mode(backbone), torch.no_grad():
            backbone(torch.zeros(1, 3, side, side, device=next(backbone.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    stages: list[list[Block]] = []
    for number, block in enumerate(blocks):
        if stages and (number not in shapes or shapes.get(number - 1) == shapes[number]):
            stages[-1].append(block)
        else:
            stages.append([block])
    return stages if len(stages) > 2 else [[block] for block in blocks]


def module_of(backbone: nn.Module, block: Block) -> nn.Module:
    """Return the module whose output is the block's output.

    It is the smallest module that contains the whole block. If this is the backbone or a list of
    modules, the block's last layer is returned instead.
    """
    owners = [name.split(".")[:-1] for name in block.names]
    shared_names = [
        parts[0]
        for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
    ]
    shared = backbone.get_submodule(".".join(shared_names))
    return (
        backbone.get_submodule(".".join(owners[-1]))
        if shared is backbone or isinstance(shared, CONTAINERS)
        else shared
    )


def _blocks_by_timm(backbone: nn.Module, names: list[str]) -> list[list[str]]:
    from timm.models._manipulate import group_with_matcher

    matcher = backbone.group_matcher(coarse=False)  # type: ignore[operator]
    groups = group_with_matcher(iter([(name, None) for name in names]), matcher)
    return [list(group) for group in groups.values()]


def _blocks_by_module_tree(backbone: nn.Module) -> Iterator[list[str]]:
    """Yield the names of each block.

    Norms and single parameters belong to the layer before them. If they come first in the network,
    they belong to the first layer.
    """
    matrices = {
        name
        for name, parameter in backbone.named_parameters()
        if name.endswith("weight") and parameter.ndim >= 2
    }
    block: list[str] = []
    for names in _walk(backbone, ""):
        if matrices & set(names) and matrices & set(block):
            yield block
            block = []
        block = block + names
    yield block


def _walk(module: nn.Module, prefix: str) -> Iterator[list[str]]:
    """Yield the names of parameters and buffers of each layer and each block in a module."""
    yield [
        prefix + name
        for name, _ in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    ]
    for name, child in module.named_children():
        inner = f"{prefix}{name}."
        if not _is_layer(child) and _is_container(child):
            yield from _walk(child, inner)
        else:
            yield [inner + own for own, _ in (*child.named_parameters(), *child.named_buffers())]


def _is_layer(module: nn.Module) -> bool:
    return not any(child.state_dict() for child in module.children())


def _is_container(module: nn.Module) -> bool:
    with_weights = [child for child in module.children() if child.state_dict()]
    if type(module) in CONTAINERS:
        return True
    if isinstance(module, CONTAINERS):
        # Subclasses with plain layers only, such as a convolution and its norm, are one block.
        return not all(_is_layer(child) for child in with_weights)
    return any(
        _is_list_of_blocks(child) and _count(child) > MIN_BLOCK_FRACTION * _count(module)
        for child in with_weights
    )


def _is_list_of_blocks(module: nn.Module) -> bool:
    kinds = {type(child) for child in module.children()}
    return (
        isinstance(module, CONTAINERS)
        and len(kinds) == 1
        and len(list(module.children())) > 1
        and not any(issubclass(kind, CONTAINERS) for kind in kinds)
        and not all(map(_is_layer, module.children()))
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
