"""Find the weights in a file, and remove common wrappers and prefixes.

`weight_files` reads the file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.modeling import checkpoint_layouts, weight_files
from writers.errors import UserError
from writers.raw_files import content_digest
from writers.text_names import counted

# Keys under which files store their mapping of tensors, in order of preference.
WEIGHT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "classy_state_dict",  # VISSL
    "base_model",
)
AVERAGES = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")
MAX_DEPTH = 6
CHANNELS = 3  # number of color channels, the length of mean and std
MAX_NAME = 2000  # largest length of a tensor's name: the time of matching grows with its square
# Last parts of the names of tensors that must be floating-point.
FLOATING = ("weight", "bias", "running_mean", "running_var")
NO_WEIGHTS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim")
# Parts of names that torch.compile, FSDP and activation checkpointing insert at wrapped modules.
INNER_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
PREFIXES = tuple(f"{part}." for part in checkpoint_layouts.WRAPPERS)
# Beginnings of names that are not weights of the network: the robustness library's second copy of
# the network, and normalizations.
LEFT_OUT = (
    "attacker.",
    "normalizer.",
    "normalize.",
)


@dataclass(frozen=True)
class Weights:
    """Content of a file of weights.

    Attributes:
        tensors: name without prefixes -> tensor.
        mean: mean per channel of the normalization in the file; None if it has none.
        std: standard deviation per channel, or None.
        sha256: digest of the file.
        averages: keys of moving averages of the weights that the file has, too, and that were not
            read.
    """

    tensors: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    sha256: str
    averages: tuple[str, ...] = ()


def read(path: Path, *, average: bool = False) -> Weights:
    """Read the weights of a .safetensors file or a torch file.

    Args:
        path: the file.
        average: read the exponential moving average of the weights instead of the last weights.

    Raises:
        UserError: the file is missing, damaged, or has no weights.
    """
    try:
        content = weight_files.content(path)
        sha256 = content_digest(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    assert sha256 is not None  # content_digest returns None only if it is stopped
    tensors = _unwrap(content, average)
    if tensors is None and weight_files.has_foreign_objects(content):
        raise UserError(
            f"{path} has no tensors by name, but objects of classes that are not loaded.",
            "If it is a whole model, save its weights where its code is: "
            "torch.save(model.state_dict(), 'weights.pt')",
        )
    if tensors is None:
        raise UserError(
            f"{path} has no {'averaged ' if average else ''}weights in it that this harness can "
            "find.",
            f"It looks under {', '.join(AVERAGES if average else WEIGHT_KEYS)}, and for a mapping "
            "of tensors.",
        )
    if (longest := max(map(len, tensors))) > MAX_NAME:
        raise UserError(
            f"{path} has a tensor whose name has {longest:,} characters; at most {MAX_NAME:,} are "
            "accepted.",
            "Do not trust this file.",
        )
    plain = _strip_prefixes(tensors)
    mean, std = (_constant(plain, name) for name in ("normalizer.new_mean", "normalizer.new_std"))
    return Weights(
        {name: tensor for name, tensor in plain.items() if not name.startswith(LEFT_OUT)},
        mean,
        std,
        sha256,
        () if average else _averages_in(content),
    )


def by_order(
    weights: Mapping[str, Tensor], names_and_shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Rename the i-th tensor to the i-th name, for files that have other names for the modules.

    Raises:
        UserError: the number of tensors or a shape differs.
    """
    if len(weights) != len(names_and_shapes):
        raise UserError(
            f"The file has {counted(len(weights), 'tensor')}, and the model "
            f"{len(names_and_shapes)}: their order cannot be used.",
            "Check --arch, or match by name: leave out --by-order.",
        )
    for (name, tensor), (wanted, shape) in zip(
        weights.items(), names_and_shapes.items(), strict=True
    ):
        if tensor.shape != shape:
            raise UserError(
                f"{name} is {tuple(tensor.shape)}, but {wanted} at its position is {tuple(shape)}: "
                "their orders differ.",
                "Use a file that was saved from the same architecture.",
            )
    return dict(zip(names_and_shapes, weights.values(), strict=True))


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Check that the weights among the tensors are finite floating-point numbers.

    Args:
        tensors: name -> tensor to load.

    Raises:
        UserError: weights are integers, as in quantized files, or infinite, or a tensor has NaN.
    """
    for name, tensor in tensors.items():
        is_weight = name.rpartition(".")[2] in FLOATING
        if not tensor.is_floating_point():
            if is_weight:
                raise UserError(
                    f"{name} has values of type {str(tensor.dtype).removeprefix('torch.')}, which "
                    "cannot be weights: quantized files need their scales.",
                    "Use the weights before quantization.",
                )
            continue
        values = tensor.float()
        if bool(values.isnan().any()) or (is_weight and bool(values.isinf().any())):
            raise UserError(
                f"{name} has values that are not finite: its training diverged.",
                "Use an earlier checkpoint.",
            )


def _unwrap(content: Any, average: bool, depth: int = 0) -> dict[str, Tensor] | None:
    """Find the mapping of tensors in a file, under one of WEIGHT_KEYS or under another key.

    Returns None if there is none. With `average`, only the keys in AVERAGES are searched.

    If there are several mappings under other keys (`student` and `teacher`), they are joined, and
    each tensor's name begins with its key. Mappings that are nested deeper than MAX_DEPTH are not
    read, because a mapping in a file may contain itself.
    """
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return None
    for key in AVERAGES if average else WEIGHT_KEYS:
        if tensors := _unwrap(content.get(key), False, depth + 1):
            return tensors
    if average:
        return None
    tensors = _plain_tensors(content)
    if depth and not tensors:  # nested mappings, such as VISSL's `model` with `trunk` and `heads`
        parts = {str(key): _plain_tensors(value) for key, value in content.items()}
        return _joined(parts) or None
    if len(tensors) > 1 or depth:
        return tensors
    others = {
        str(key): inner
        for key, value in content.items()
        if key not in AVERAGES and key not in NO_WEIGHTS
        if (inner := _unwrap(value, False, depth + 1))
    }
    if len(others) > 1:
        return _joined(others)
    return max((*others.values(), tensors), key=len) or None


def _averages_in(content: Any) -> tuple[str, ...]:
    """Return the keys of AVERAGES under which the mapping of a file has tensors."""
    if not isinstance(content, Mapping):
        return ()
    return tuple(key for key in AVERAGES if _unwrap(content.get(key), False, 1))


def _plain_tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a mapping; an empty one if the object is not a mapping of tensors."""
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value.detach() for name, value in content.items() if _is_plain(value)}


def _joined(mappings: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join several mappings of tensors. Each name then begins with the key of its mapping."""
    return {
        f"{key}.{name}": value for key, inner in mappings.items() for name, value in inner.items()
    }


def _is_plain(value: Any) -> bool:
    """Return True if the value is a plain tensor of real numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta or value.is_complex())
    )


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes of DataParallel, torch.compile and training classes.

    Names that begin with one of LEFT_OUT do not keep a prefix from being removed. The robustness
    library stores `module.attacker.` and `module.normalizer.` next to `module.model.`.
    """
    plain = {_without_inner_wrappers(name): value for name, value in tensors.items()}
    if len(plain) == len(tensors):
        tensors = plain
    while True:
        names = [name for name in tensors if not name.startswith(LEFT_OUT)]
        prefix = next(
            (
                prefix
                for prefix in PREFIXES
                if names and all(name.startswith(prefix) for name in names)
            ),
            None,
        )
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}


def _without_inner_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INNER_WRAPPERS)


def _constant(tensors: Mapping[str, Tensor], name: str) -> tuple[float, ...] | None:
    """Return the normalization's values per channel; None if the file does not have them."""
    if name not in tensors:
        return None
    number = tensors[name].numel()
    values = tensors[name].flatten().tolist() if number == CHANNELS else []
    is_std = name.endswith("_std")
    if not values or not all(
        math.isfinite(value) and (value > 0 or not is_std) for value in values
    ):
        what = "are finite and above 0" if is_std else "are finite"
        raise UserError(
            f"The file's {name} is not a normalization: it has {counted(number, 'value')}, and "
            f"should have {CHANNELS} that {what}.",
            "Download it again, or give --mean and --std for a file without this tensor.",
        )
    return tuple(values)
