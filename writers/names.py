"""Find modules by name (`pets` is `writers.datasets.pets`); suggest similar names for a typo."""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable
from types import ModuleType

from writers.errors import UserError


def find(package: str, name: str, noun: str) -> ModuleType:
    """Import `package.name`; hyphens and case do not matter.

    Raises:
        UserError: the name is unknown; the hint has similar names.
    """
    wanted = normalize(name)
    # Listing the folder takes a millisecond, which adds up: recipes name datasets many times.
    if wanted.isidentifier() and not wanted.startswith("_"):
        imported = sys.modules.get(f"{package}.{wanted}")
        if imported is not None:
            return imported
    known = names(package)
    if wanted not in known:
        raise unknown(noun, name, known)
    return importlib.import_module(f"{package}.{wanted}")


def names(package: str) -> list[str]:
    """List the public modules directly in `package`, sorted."""
    folder = importlib.import_module(package).__path__
    return sorted(
        module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")
    )


def unknown(noun: str, name: str, known: Iterable[str]) -> UserError:
    """Make the UserError for a name that is not in `known`."""
    known = sorted(known)
    close = nearest(name, known)
    hint = (
        f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known) or 'none'}."
    )
    return UserError(f"There is no {noun} named '{name}'.", hint)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names similar to `name`, best first."""
    return difflib.get_close_matches(normalize(name), list(known), n=3, cutoff=0.5)


def normalize(name: str) -> str:
    """Return the name in lower case with underscores instead of hyphens."""
    return name.strip().lower().replace("-", "_")
