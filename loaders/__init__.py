"""Load batches of images and labels from beton files.

Training code needs `open_loader(plan)` only. Each module of `loaders/backends/` is a backend;
`loaders.backend` defines their interface. The same plan and epoch give the same batches with every
backend and any number of threads. Names are imported lazily: `import loaders` imports no torch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from writers import names

if TYPE_CHECKING:
    from loaders.backend import Loader
    from loaders.plan import LoaderPlan

__all__ = ["Loader", "LoaderPlan", "open_loader"]


def __getattr__(name: str) -> Any:
    # Lazy: loaders.backend imports torch.
    if name == "Loader":
        from loaders.backend import Loader

        return Loader
    if name == "LoaderPlan":
        from loaders.plan import LoaderPlan

        return LoaderPlan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_loader(plan: "LoaderPlan") -> "Loader":
    """Open the loader of a plan.

    Backend `auto` selects `resident` if the decoded beton takes at most a quarter of the GPU's free
    memory, otherwise `ffcv`.

    Raises:
        UserError: the backend is unknown, or the beton is missing or damaged.
    """
    if plan.backend == "auto":
        plan = replace(plan, backend="resident" if _fits_on_the_gpu(plan) else "ffcv")
    backend = names.find("loaders.backends", plan.backend, "loader backend")
    loader: Loader = backend.open_loader(plan)
    return loader


def _fits_on_the_gpu(plan: "LoaderPlan") -> bool:
    if plan.device == "cpu":
        return False
    import torch

    from loaders.reader import decoded_bytes, open_samples

    free, _ = torch.cuda.mem_get_info(plan.device)
    return decoded_bytes(open_samples(plan)) <= free / 4
