"""Read the content of safetensors and torch files without executing anything in them.

A torch file may have other objects than tensors and plain values, such as the training objects of
the robustness library. An inert placeholder replaces each of them.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from writers.errors import UserError
from writers.formats.files import PACKED
from writers.formats.image_formats import HEAD_BYTES, other_format_of
from writers.regular_file import open_regular
from writers.text_names import first_line

T = TypeVar("T")

ZIP_BEGIN = b"PK\x03\x04"
MAX_UNPACKED = 2  # largest ratio of the unpacked size of a zip file to its own size
TORCH_BEGINS = (ZIP_BEGIN, b"\x80")  # a zip, or a pickle of protocol 2 and later
# Names of files of a model that is stored in several: model-00001-of-00002.safetensors.
PART_OF_SEVERAL = re.compile(r"-\d+-of-\d+\.|\.index\.json$")
# End of the name of a member of a zip file -> what the file is, and how to get weights from it
OTHER_ZIPS = {
    "/constants.pkl": (
        "a TorchScript program",
        "Save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
    ),
    ".npy": (
        "a file of NumPy arrays",
        "Save them as tensors: torch.save({name: torch.from_numpy(array), ...}, 'weights.pt')",
    ),
}


def content(path: Path) -> Any:
    """Read a safetensors file or a torch file. Their names may have any extension.

    Returns:
        The object in the file, on the CPU; for safetensors, a mapping of tensors.

    Raises:
        UserError: the file is not complete, or of another kind.
        OSError: it cannot be read, or is a pipe, a device or a folder.
    """
    is_safetensors = path.suffix == ".safetensors" or _begins_like_safetensors(path)
    _refuse_other_kinds(path, is_safetensors)
    return _safetensors(path, _tensors) if is_safetensors else _torch_file(path)


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


def has_foreign_objects(found: Any) -> bool:
    """Return True if the object in a file, or a value of its mapping, is of a class not loaded."""
    values = found.values() if isinstance(found, Mapping) else (found,)
    return any(isinstance(value, _Inert) for value in values)


def _begins_like_safetensors(path: Path) -> bool:
    """Return True if the file begins with the length of a JSON header and its brace."""
    with open_regular(path) as file:
        begin, num_bytes = file.read(9), os.fstat(file.fileno()).st_size
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= num_bytes - 8


def _refuse_other_kinds(path: Path, is_safetensors: bool) -> None:
    """Check the first bytes of the file before the whole file is read.

    Raises:
        UserError: the file does not begin like a file of weights.
        OSError: it cannot be read, or is a pipe, a device or a folder.
    """
    with open_regular(path) as file:
        begin, num_bytes = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    if PART_OF_SEVERAL.search(path.name):
        raise UserError(
            f"{path} belongs to a model that is stored in several files, which is not read.",
            "Save the model in one file, such as by "
            "model.save_pretrained(FOLDER, max_shard_size='100GB').",
        )
    packed = (kind for magic, kind in PACKED.items() if begin.startswith(magic))
    if not begin.startswith(ZIP_BEGIN) and (kind := other_format_of(begin) or next(packed, None)):
        raise UserError(
            f"{path} is {kind}.", "Name a safetensors file or one that torch.save wrote, unpacked."
        )
    if is_safetensors:
        if not 0 < int.from_bytes(begin[:8], "little") <= num_bytes - 8:
            raise UserError(f"{path} is not a complete safetensors file: its header does not fit.")
    elif not begin.startswith(TORCH_BEGINS):
        raise _damaged_error(path, ValueError("it begins as neither a zip file nor a pickle"))
    elif begin.startswith(ZIP_BEGIN):
        with open_regular(path) as file:
            try:
                check_unpacked_size(file)
            except ValueError as error:
                raise _damaged_error(path, error) from error
            _refuse_other_zips(path, file)


def _refuse_other_zips(path: Path, file: BinaryIO) -> None:
    """Raise UserError for a complete zip file that torch.save did not write."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return  # torch reports an incomplete file when it reads it
    for end, (kind, hint) in OTHER_ZIPS.items():
        if any(name.endswith(end) for name in names):
            raise UserError(f"{path} is {kind}.", hint)


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
