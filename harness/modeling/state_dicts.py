"""Read weights from safetensors or torch files, with common wrappers and prefixes removed.

Nothing in a file is executed. A torch file may have other objects than tensors and plain values,
such as the training objects of the robustness library. An inert placeholder replaces each of them.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from harness.modeling import checkpoint_layouts
from writers.errors import UserError
from writers.raw_files import content_digest
from writers.regular_file import open_regular
from writers.text_names import counted, first_line

T = TypeVar("T")

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
ZIP_BEGIN = b"PK\x03\x04"
MAX_UNPACKED = 2  # largest ratio of the unpacked size of a zip file to its own size
TORCH_BEGINS = (ZIP_BEGIN, b"\x80")  # a zip, or a pickle of protocol 2 and later
CHANNELS = 3  # number of color channels, the length of mean and std
MAX_NAME = 2000  # largest length of a tensor's name: the time of matching grows with its square
# Last parts of the names of tensors that must be floating-point.
FLOATING = ("weight", "bias", "running_mean", "running_var")
NO_WEIGHTS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim")
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
    """

    tensors: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    sha256: str


def read(path: Path, *, average: bool = False) -> Weights:
    """Read the weights of a .safetensors file or a torch file.

    Args:
        path: the file.
        average: read the exponential moving average of the weights instead of the last weights.

    Raises:
        UserError: the file is missing, damaged, or has no weights.
    """
    is_safetensors = path.suffix == ".safetensors"
    try:
        _refuse_other_kinds(path, is_safetensors)
        content = _safetensors(path, _tensors) if is_safetensors else _torch_file(path)
        sha256 = content_digest(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    assert sha256 is not None  # content_digest returns None only if it is stopped
    tensors = _unwrap(content, average)
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
    )


def metadata(path: Path) -> dict[str, str]:
    """Read the texts in the header of a .safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        _refuse_other_kinds(path, is_safetensors=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _safetensors(path, lambda file: dict(file.metadata() or {}))


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


def _refuse_other_kinds(path: Path, is_safetensors: bool) -> None:
    """Check the first bytes of the file before the whole file is read.

    Raises:
        UserError: the file does not begin like a file of weights.
        OSError: it cannot be read, or is a pipe, a device or a folder.
    """
    with open_regular(path) as file:
        begin, num_bytes = file.read(8), os.fstat(file.fileno()).st_size
    if is_safetensors:
        if not 0 < int.from_bytes(begin, "little") <= num_bytes - 8:
            raise UserError(f"{path} is not a complete safetensors file: its header does not fit.")
    elif not begin.startswith(TORCH_BEGINS):
        raise _damaged_error(path, ValueError("it begins as neither a zip file nor a pickle"))
    elif begin.startswith(ZIP_BEGIN):
        with open_regular(path) as file:
            try:
                check_unpacked_size(file)
            except ValueError as error:
                raise _damaged_error(path, error) from error


def check_unpacked_size(file: BinaryIO) -> None:
    """Check that a zip file is not much larger when unpacked. torch's zip files are uncompressed.

    Does not report incomplete zip files; torch does when it reads them.

    Raises:
        ValueError: the unpacked size is more than MAX_UNPACKED times the file's size.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return
    finally:
        file.seek(0)
    if unpacked > MAX_UNPACKED * num_bytes:
        raise ValueError(f"{num_bytes:,} bytes of it unpack to {unpacked:,}")


def _safetensors(path: Path, read_from: Callable[[Any], T]) -> T:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise UserError(
            "Reading .safetensors files needs safetensors.", "pip install safetensors"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            return read_from(file)
    except Exception as error:  # for unknown dtypes, safetensors raises other exceptions
        raise UserError(
            f"{path} is not a complete safetensors file: {first_line(error)[:200]}",
            "Save it again, or download it again.",
        ) from error


def _tensors(file: Any) -> dict[str, Tensor]:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass  # the file has other objects than tensors, or is not a torch file
    except Exception as error:  # torch raises many exception types for a damaged file
        raise _damaged_error(path, error) from error
    try:
        return torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_WITHOUT_FOREIGN_CLASSES
        )
    except Exception as error:
        raise _damaged_error(path, error) from error


def _damaged_error(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a complete file of torch weights: {first_line(error)[:200]}",
        "Save it again, or download it again.",
    )


class _Inert:
    """Placeholder for an object whose class is not loaded.

    It accepts and ignores all calls that unpickling makes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class _Unpickler(pickle._Unpickler):
    """Unpickle tensors and plain containers; everything else becomes _Inert.

    Extends the Python implementation of pickle. The C implementation allocates memory for the
    largest memo index that a file names, up to 64 GiB for a file of 10 bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"),
            ("torch", "Size"),
            ("torch", "device"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_tensor"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch.nn.parameter", "Parameter"),
            ("torch", "Tensor"),
        }
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in allowed or is_storage or is_dtype:
            return super().find_class(module, name)
        return _Inert


_WITHOUT_FOREIGN_CLASSES = SimpleNamespace(
    Unpickler=_Unpickler,
    load=lambda file, **options: _Unpickler(file, **options).load(),
    __name__="without_foreign_classes",
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
