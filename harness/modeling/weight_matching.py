"""Find the tensors of a network in a file that has more, under longer names."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.modeling.checkpoint_layouts import has_part

COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it


@dataclass(frozen=True)
class Match:
    """Part of a file that fits a network.

    Attributes:
        tensors: tensors by the network's names.
        missing: names of the network that the file lacks, without batch counters.
        left_out: names in the file that are not used, sorted.
        sources: name in the file of each tensor.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    sources: dict[str, str]


def largest_match(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], preferred: str = ""
) -> Match:
    """Match names after the one prefix that fits the most tensors, by shape and then by name.

    Prefixes end at a dot: `net.`, `backbone.`, `encoder.module.`. If two prefixes fit equally many
    tensors, the one with the preferred part counts, and then the shorter one.

    Args:
        weights: tensors of the file.
        shapes: names and shapes of the network.
        preferred: part of a prefix, such as `encoder_q`; "" prefers none.
    """
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # prefix -> equal shapes, names
    for key, tensor in weights.items():
        begin = 0
        while begin >= 0:
            name = key[begin:]
            if name in shapes:
                found[key[:begin]][0] += tensor.shape == shapes[name]
                found[key[:begin]][1] += 1
            begin = key.find(".", begin) + 1 or -1

    def rank(prefix: str) -> tuple[int, int, bool, int]:
        equal_shapes, names = found[prefix]
        return equal_shapes, names, bool(preferred) and has_part(prefix, preferred), -len(prefix)

    prefix = max(sorted(found), key=rank, default="")
    sources = {name: prefix + name for name in shapes if prefix + name in weights}
    tensors = {name: weights[source] for name, source in sources.items()}
    return Match(
        tensors,
        tuple(name for name in shapes if name not in tensors and not name.endswith(COUNTER)),
        tuple(sorted(weights.keys() - set(sources.values()))),
        sources,
    )
