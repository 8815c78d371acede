"""Layouts of published self-supervised checkpoints, recognized by the names of their tensors.

Such a file often holds two copies of the network, of which the method's authors evaluate one, and a
projection instead of a classifier.
"""

from collections.abc import Collection
from dataclasses import dataclass

# First parts of names that DataParallel, torch.compile and training classes add.
WRAPPERS = ("module", "_orig_mod", "model")


@dataclass(frozen=True)
class Layout:
    """Names that identify the files of a method.

    Attributes:
        method: name of the method, or of the program that wrote the file.
        has: first parts of names that a file of this layout has, without wrappers.
        part: first part of the names of the network that the authors evaluate. "" means that its
            names have no such part.
    """

    method: str
    has: frozenset[str]
    part: str


def _layout(method: str, part: str, *others: str) -> Layout:
    return Layout(method, frozenset([*([part] if part else []), *others]), part)


# The first layout that fits counts. Sources: the published code of each method.
LAYOUTS = (
    _layout("MoCo v3", "base_encoder", "momentum_encoder"),
    _layout("MoCo v3", "base_encoder", "predictor"),
    _layout("MoCo", "encoder_q"),  # versions 1 and 2; OpenSelfSup's, too
    _layout("DINO", "teacher", "student"),
    _layout("BYOL", "online_encoder"),
    _layout("BYOL", "online_network"),
    _layout("BYOL", "online_net"),  # OpenSelfSup
    _layout("SwAV", "", "prototypes", "projection_head"),
    _layout("Barlow Twins or VICReg", "backbone", "projector"),
    _layout("SimCLR", "encoder", "projector"),
    _layout("SimCLR", "backbone", "projection_head"),
    # Rotation, jigsaw, NPID, DeepCluster, ODC and SimCLR of OpenSelfSup and MMSelfSup.
    _layout("OpenSelfSup", "backbone", "neck"),
    _layout("OpenSelfSup", "backbone", "memory_bank"),
)


def recognize(names: Collection[str]) -> Layout | None:
    """Return the layout of a file with tensors of these names, or None for any other file.

    Args:
        names: names of tensors; those of several mappings in a file begin with the mapping's key.
    """
    first = {_first_part(name) for name in names}
    return next((layout for layout in LAYOUTS if layout.has <= first), None)


def _first_part(name: str) -> str:
    return next((part for part in name.split(".") if part not in (*WRAPPERS, "state_dict")), "")


def has_part(name: str, part: str) -> bool:
    """Return whether a name, or a prefix of names such as `module.encoder_q.`, contains a part.

    Args:
        name: name of a tensor, or a prefix, which ends at a dot or is empty.
        part: one or more parts of a name, such as `encoder_q` or `online_encoder.net`. The last
            part of a tensor's name does not count.
    """
    return f".{part}." in f".{name}"
