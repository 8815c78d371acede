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


def matching(pattern: str, limit: int | None = None) -> list[str]:
    """List the classifiers with published weights that match a pattern such as `timm/resnet*`.

    `torchvision/*@IMAGENET1K_V1` matches the classifiers that have weights of this name.

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
    network, weights = split_weights(inner)
    fitting = fnmatch.filter(available(library), network)
    matches = [f"{library}/{name}" for name in _with_weights(library, fitting, weights)]
    if not matches:
        raise UserError(f"No classifier of {library} with published weights is called {inner}.")
    return matches[:limit]


def _with_weights(library: str, candidates: Iterable[str], weights: str) -> list[str]:
    """Names of the candidates with published weights, or with those of the given name."""
    if library == "timm":
        if weights:
            return []
        timm = timm_library()
        return [
            name
            for name in candidates
            if timm.models.is_model_pretrained(name) and timm.get_pretrained_cfg(name).num_classes
        ]
    from torchvision import models

    published = {
        name: [member.name for member in models.get_model_weights(name)] for name in candidates
    }
    if weights:
        return [f"{name}@{weights}" for name, known in published.items() if weights in known]
    return [name for name, known in published.items() if known]


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
