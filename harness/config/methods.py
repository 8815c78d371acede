"""Settings models of transfer methods, found by name. Imports no torch.

The models are in `harness/transfer/methods/<name>/settings.py`. That package is in a higher
layer, so it is imported by name.
"""

import importlib
from collections.abc import Iterable
from functools import cache

from harness.config.transfer import MethodSettings
from writers import names

PACKAGE = "harness.transfer.methods"


@cache
def settings_model(name: str) -> type[MethodSettings]:
    """Import the settings model of a method.

    Raises:
        UserError: there is no such method. The message names similar methods.
    """
    wanted = names.normalize(name)
    if wanted not in available():
        raise names.unknown("method", name, available())
    model: type[MethodSettings] = importlib.import_module(f"{PACKAGE}.{wanted}.settings").SETTINGS
    return model


def available() -> list[str]:
    """List the names of all methods."""
    return names.names(PACKAGE)


def any_needs_features(methods: Iterable[MethodSettings]) -> bool:
    """Return True if a method works on a model's features instead of its weights."""
    return any(method.NEEDS == "features" for method in methods)
