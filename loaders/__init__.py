"""Load batches of images and labels from FFCV's `.beton` files.

`Loader(path, batch_size=...)` is for training code: it iterates, resumes and splits batches among
ranks. `open_loader(plan)` returns the plain loader of a backend. Each module of `loaders/backends/`
is a backend; `loaders.backend` defines their interface. The same plan and epoch give the same
batches with any number of threads and with every backend, except `replay` and `synthetic`, which
return repeated or random images for measurements. Names are imported lazily: `import loaders` does
not import torch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from writers import names

if TYPE_CHECKING:
    from loaders import backend
    from loaders.augmentations import Augmentations
    from loaders.loader import Loader
    from loaders.plan import LoaderPlan

__all__ = ["Augmentations", "Loader", "LoaderPlan", "open_loader"]


def __getattr__(name: str) -> Any:
    # Import on first use, because loaders.loader imports torch.
    if name == "Loader":
        from loaders.loader import Loader

        return Loader
    if name == "LoaderPlan":
        from loaders.plan import LoaderPlan

        return LoaderPlan
    if name == "Augmentations":
        from loaders.augmentations import Augmentations

        return Augmentations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_loader(plan: "LoaderPlan") -> "backend.Loader":
    """Open a loader with the backend and the settings of a plan.

    Backend `auto` selects `resident`, which keeps all images decoded on the GPU, if they take at
    most a quarter of its free memory; otherwise `ffcv`.

    Raises:
        UserError: the backend is unknown or does not support the plan, or the `.beton` file is
            missing or damaged.
    """
    if plan.backend == "auto":
        plan = replace(plan, backend="resident" if _fits_on_the_gpu(plan) else "ffcv")
    module = names.find("loaders.backends", plan.backend, "loader backend")
    if plan.augmentations is not None:
        from loaders.augmentations.loader import AugmentedLoader

        return AugmentedLoader(plan, module.open_loader)
    loader: backend.Loader = module.open_loader(plan)
    return loader


def _fits_on_the_gpu(plan: "LoaderPlan") -> bool:
    if plan.device == "cpu":
        return False
    import torch

    from loaders.reader import decoded_bytes, open_samples

    free, _ = torch.cuda.mem_get_info(plan.device)
    return decoded_bytes(open_samples(plan)) <= free / 4
