"""Make the transferability scores available as `harness.scores.<name>.score`.

The implementations are in `harness/transfer/scores/`.
"""

import importlib
import pkgutil
import sys

from harness.transfer import scores as _catalog

for _module in pkgutil.iter_modules(_catalog.__path__):
    if not _module.name.startswith("_"):
        sys.modules[f"{__name__}.{_module.name}"] = globals()[_module.name] = (
            importlib.import_module(f"{_catalog.__name__}.{_module.name}")
        )
