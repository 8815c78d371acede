"""Layouts of published self-supervised checkpoints, recognized by the names of their tensors.

A self-supervised checkpoint often holds two copies of the network, one of which the method's
authors evaluate, and a projection instead of a classifier. A checkpoint of a linear evaluation has
the same names and also a classifier, which `harness.modeling.checkpoint_import` keeps if it fits
the given classes.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

# First parts of names that DataParallel, torch.compile and training classes add.
WRAPPERS = ("module", "_orig_mod", "model")
VISSL_TRUNK = "_feature_blocks"


@dataclass(frozen=True)
class Layout:
    """Names that identify the files of a method.

    Attributes:
        method: name of the method, or of the program that wrote the file.
        part: part of tensor names, such as `encoder_q`, that marks the copy of the network that the
            authors evaluate; "" if there is no such part.
        has: beginnings of names, without wrappers, such as `backbone` or `head.fc_cls`. A file must
            have all of them.
        has_one_of: beginnings of names. A file must have at least one of them, unless this is
            empty.
    """

    method: str
    part: str
    has: tuple[str, ...]
    has_one_of: tuple[str, ...] = ()


def _layout(method: str, part: str, *others: str, one_of: tuple[str, ...] = ()) -> Layout:
    return Layout(method, part, (*([part] if part else []), *others), one_of)


PROJECTIONS = ("projector", "projection", "projection_head", "proj_head", "predictor")

# Layouts in order: the first that fits a file is taken. The names are from the published code of
# each method.
LAYOUTS = (
    _layout("MoCo v3", "base_encoder", "momentum_encoder"),
    _layout("MoCo v3", "base_encoder", "predictor"),
    _layout("MoCo", "encoder_q"),  # versions 1 and 2, and OpenSelfSup's MoCo
    _layout("DINO", "teacher", "student"),
    _layout("DINO", "teacher_backbone", "student_backbone"),  # Lightly
    _layout("BYOL", "online_encoder"),
    _layout("BYOL", "online_network"),
    _layout("BYOL", "online_network_state_dict"),
    _layout("BYOL", "online_backbone"),
    _layout("BYOL", "online_net"),  # OpenSelfSup
    _layout("SwAV", "", "prototypes", "projection_head"),
    _layout("MMSelfSup", "backbone", "target_generator"),
    _layout("VISSL", VISSL_TRUNK),
    # Files of other methods by solo-learn and Lightly have these names, too.
    _layout("Barlow Twins or VICReg", "backbone", "projector"),
    _layout("SimCLR", "encoder", "projector"),
    _layout("SimCLR", "encoder", "projection"),  # Lightning Bolts
    _layout("SimCLR", "backbone", "projection_head"),
    _layout("SimCLR", "backbone", "backbone.fc.0"),
    _layout("SimCLR", "convnet", one_of=PROJECTIONS),
    _layout("SimCLR", "resnet", one_of=(*PROJECTIONS, "resnet.fc.0", "head")),
    _layout("solo-learn", "backbone", "momentum_backbone"),  # DINO without a projector
    # OpenSelfSup's and MMSelfSup's rotation, jigsaw, NPID, DeepCluster, ODC and SimCLR.
    _layout("OpenSelfSup", "backbone", one_of=("neck", "memory_bank", "head.fc_cls")),
)


def recognize(names: Collection[str]) -> Layout | None:
    """Return the layout of a file, or None if it is not a known self-supervised checkpoint.

    Args:
        names: names of the file's tensors. If the file has several mappings of tensors, each name
            begins with the key of its mapping.
    """
    known = {part for name in names for part in _identifying_parts(name)}
    return next(
        (
            layout
            for layout in LAYOUTS
            if known.issuperset(layout.has)
            and (not layout.has_one_of or known.intersection(layout.has_one_of))
        ),
        None,
    )


def _identifying_parts(name: str) -> Iterator[str]:
    """Yield the beginnings of a name, of one to three parts without wrappers, and VISSL's part."""
    parts = [part for part in name.split(".")[:-1] if part not in (*WRAPPERS, "state_dict")]
    yield from (".".join(parts[:length]) for length in range(1, 4))
    if VISSL_TRUNK in parts:
        yield VISSL_TRUNK


def has_part(name: str, part: str) -> bool:
    """Return True if a name, or a prefix of names such as `module.encoder_q.`, contains a part.

    Args:
        name: name of a tensor, or a prefix, which is empty or ends with a dot.
        part: one or more parts of a name, such as `encoder_q` or `online_encoder.net`. It is not
            compared with the last part of a tensor's name.
    """
    return f".{part}." in f".{name}"
