"""Public names of the transferability scores: `harness.scores.<name>.score`.

The implementation is `harness/transfer/scores/`.
"""

import importlib
import pkgutil
import sys

from harness.transfer import scores as _catalogue

for _module in pkgutil.iter_modules(_catalogue.__path__):
    if not _module.name.startswith("_"):
        sys.modules[f"{__name__}.{_module.name}"] = globals()[_module.name] = (
            importlib.import_module(f"{_catalogue.__name__}.{_module.name}")
        )
