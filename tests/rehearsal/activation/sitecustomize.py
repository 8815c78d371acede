"""Make a Python process use the fake CUDA as soon as it has imported torch.

Put this folder on PYTHONPATH, and describe the GPUs in REHEARSAL_GPUS. If this variable is not set,
the module does nothing.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType


class _Loader(importlib.abc.Loader):
    """Load torch by its own loader, and then install the fake."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from tests.rehearsal import cuda

        cuda.install()


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if os.environ.get("REHEARSAL_GPUS"):
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    sys.meta_path.insert(0, _Finder())
