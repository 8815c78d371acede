"""Find the tensors of a network in a file that may have more tensors and longer names."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.modeling.checkpoint_layouts import has_part

COUNTER = "num_batches_tracked"  # BatchNorm's counter of batches, which old files lack


@dataclass(frozen=True)
class Match:
    """Tensors of a file that fit a network.

    Attributes:
        tensors: name of a tensor in the network -> tensor of the file.
        missing: names of the network's tensors that the file lacks, except batch counters.
        left_out: names in the file that are not used, sorted.
        sources: name of a tensor in the network -> its name in the file.
        prefix: beginning of the names in the file, such as `net.`.
        other_copies: other prefixes whose tensors fit the network equally well, sorted.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    sources: dict[str, str]
    prefix: str = ""
    other_copies: tuple[str, ...] = ()


def largest_match(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], preferred: str = ""
) -> Match:
    """Find the prefix of names in the file with which the most tensors fit the network.

    A prefix ends with a dot: `net.`, `backbone.`, `encoder.module.`; it may also be empty. The best
    prefix has the most tensors of equal name and shape, then the most of equal name, then the
    preferred part, then the fewest characters.

    Args:
        weights: name in the file -> tensor.
        shapes: name of a tensor in the network -> shape.
        preferred: part of a prefix, such as `encoder_q`; "" prefers none.
    """
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # prefix -> counts
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
        prefix,
        tuple(
            sorted(other for other in found if other != prefix and found[other] == found[prefix])
        ),
    )
