"""What torchvision and timm call their classifiers, and patterns of them. Imports neither until a pattern is looked up."""

import fnmatch
from collections.abc import Iterable
from typing import Any

from writers.errors import UserError

LIBRARIES = ("torchvision", "timm")


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def available(library: str) -> list[str]:
    """Every classifier of the library, without its name. Imports it."""
    if library == "timm":
        return sorted(timm_library().list_models())
    from torchvision import models

    return sorted(models.list_models(module=models))


def matching(pattern: str, limit: int | None = None) -> list[str]:
    """Names of the classifiers with published weights that fit a pattern such as `timm/resnet*`, sorted.

    Raises UserError where none fits.
    """
    library, _, inner = pattern.partition("/")
    if library not in LIBRARIES or not inner:
        raise UserError(
            f"'{pattern}' is no pattern of names.",
            "Begin it with torchvision/ or timm/: timm/resnet*.",
        )
    fitting = fnmatch.filter(available(library), inner)
    found = [f"{library}/{name}" for name in _with_weights(library, fitting)]
    if not found:
        raise UserError(f"No classifier of {library} with published weights is called {inner}.")
    return found[:limit]


def _with_weights(library: str, found: Iterable[str]) -> list[str]:
    if library == "timm":
        timm = timm_library()
        return [
            name
            for name in found
            if timm.models.is_model_pretrained(name) and timm.get_pretrained_cfg(name).num_classes
        ]
    from torchvision import models

    return [name for name in found if list(models.get_model_weights(name))]


def timm_library() -> Any:
    """timm, imported now. Raises UserError where it is not installed."""
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UserError("Models of timm need timm.", "pip install timm") from error
    return timm
