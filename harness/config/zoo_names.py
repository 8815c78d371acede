"""Names of torchvision's and timm's classifiers, and patterns of names.

Importing this module imports no library. Functions import one when they need it, `matching` only if
its names are not in the cache.
"""

import fnmatch
import hashlib
import importlib.util
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.system.atomic_write import write_json
from writers.errors import UserError

LIBRARIES = ("torchvision", "timm")


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards."""
    return any(sign in name for sign in "*?[")


def split_weights(name: str) -> tuple[str, str]:
    """Split `resnet50@IMAGENET1K_V1` into a network and its weights; "" means the default ones."""
    network, _, weights = name.partition("@")
    return network, weights


def available(library: str) -> list[str]:
    """List the classifiers of a library, without its prefix. Imports the library."""
    if library == "timm":
        return sorted(timm_library().list_models())
    from torchvision import models

    return sorted(models.list_models(module=models))


def matching(pattern: str, limit: int | None = None, names_folder: Path | None = None) -> list[str]:
    """List the classifiers with published weights that match a pattern such as `timm/resnet*`.

    `torchvision/*@IMAGENET1K_V1` matches the classifiers that have weights of this name.

    Args:
        pattern: pattern with the library's prefix.
        limit: largest number of names to return. None means all.
        names_folder: folder that caches the names of each installed library in a file, because
            importing torchvision or timm takes seconds and 600 MB. None means no cache.

    Raises:
        UserError: no classifier matches, or the pattern begins with no library.
    """
    library, _, inner = pattern.partition("/")
    if library not in LIBRARIES or not inner:
        raise UserError(
            f"'{pattern}' is not a pattern of names.",
            "Begin it with torchvision/ or timm/: timm/resnet*.",
        )
    network, weights = split_weights(inner)
    published = _published(library, names_folder)
    # Without @, a name stands for the default weights.
    matches = [
        f"{library}/{name}@{weights}" if weights else f"{library}/{name}"
        for name in fnmatch.filter(published, network)
        if not weights or weights in published[name]
    ]
    if not matches:
        raise UserError(
            f"No classifier of {library} with published weights is called {inner}.",
            "List the names with timm.list_models(pretrained=True) or "
            "torchvision.models.list_models().",
        )
    return matches[:limit]


_NAMES: TypeAdapter[dict[str, list[str]]] = TypeAdapter(dict[str, list[str]])


def _published(library: str, names_folder: Path | None) -> dict[str, list[str]]:
    """Map each classifier with published weights to the names of its weights ([] for timm).

    The name of the cache file depends on the versions of the library and of the harness, and on the
    path and time of the library's installation. So a file of another installation is never read.
    """
    spec = importlib.util.find_spec(library)
    if names_folder is None or spec is None or spec.origin is None:
        return _published_by_import(library)
    installed = f"{spec.origin} {Path(spec.origin).stat().st_mtime_ns}"
    versions = f"{version(library)}-{version('harness')}"
    digest = hashlib.sha256(f"{installed} {versions}".encode()).hexdigest()[:12]
    file = names_folder / f"{library}-{versions}-{digest}.json"
    try:
        return _NAMES.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        published = _published_by_import(library)
    with suppress(OSError):
        write_json(file, published)
    return published


def _published_by_import(library: str) -> dict[str, list[str]]:
    if library == "timm":
        timm = timm_library()
        return {
            name: []
            for name in available(library)
            if timm.models.is_model_pretrained(name) and timm.get_pretrained_cfg(name).num_classes
        }
    from torchvision import models

    published = {
        name: [member.name for member in models.get_model_weights(name)]
        for name in available(library)
    }
    return {name: weights for name, weights in published.items() if weights}


def timm_library() -> Any:
    """Import timm.

    Raises:
        UserError: timm is not installed.
    """
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UserError("Models of timm need timm.", "pip install timm") from error
    return timm
