"""Names of torchvision's and timm's classifiers, and patterns of names.

Imports neither library until a pattern is looked up.
"""

import fnmatch
from collections.abc import Iterable
from typing import Any

from writers.errors import UserError

LIBRARIES = ("torchvision", "timm")


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards."""
    return any(sign in name for sign in "*?[")


def available(library: str) -> list[str]:
    """List the classifiers of a library, without its prefix. Imports the library."""
    if library == "timm":
        return sorted(timm_library().list_models())
    from torchvision import models

    return sorted(models.list_models(module=models))


def matching(pattern: str, limit: int | None = None) -> list[str]:
    """List the classifiers with published weights that match a pattern such as `timm/resnet*`.

    Args:
        pattern: with the library's prefix.
        limit: return only this many of the first names. None means all.

    Raises:
        UserError: no classifier matches.
    """
    library, _, inner = pattern.partition("/")
    if library not in LIBRARIES or not inner:
        raise UserError(
            f"'{pattern}' is not a pattern of names.",
            "Begin it with torchvision/ or timm/: timm/resnet*.",
        )
    fitting = fnmatch.filter(available(library), inner)
    matches = [f"{library}/{name}" for name in _with_weights(library, fitting)]
    if not matches:
        raise UserError(f"No classifier of {library} with published weights is called {inner}.")
    return matches[:limit]


def _with_weights(library: str, candidates: Iterable[str]) -> list[str]:
    if library == "timm":
        timm = timm_library()
        return [
            name
            for name in candidates
            if timm.models.is_model_pretrained(name) and timm.get_pretrained_cfg(name).num_classes
        ]
    from torchvision import models

    return [name for name in candidates if list(models.get_model_weights(name))]


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
