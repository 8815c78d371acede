"""From betons to batches: plans, and the backends that carry them out.

`open_loader(plan)` is all that training code needs. A backend is a file of `loaders/backends/`; `loaders.backend` says
what it yields. Same plan, same epoch: same batches, whichever backend and however many threads.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from writers import names

if TYPE_CHECKING:
    from loaders.backend import Loader
    from loaders.plan import LoaderPlan


def open_loader(plan: "LoaderPlan") -> "Loader":
    """The plan's loader. Raises UserError for an unknown backend, and for a beton that is absent or damaged.

    `auto` is resident for a beton that takes no more than a quarter of the GPU's free memory once it is decoded, else ffcv.
    """
    if plan.backend == "auto":
        plan = replace(plan, backend="resident" if _fits_on_the_gpu(plan) else "ffcv")
    return names.find("loaders.backends", plan.backend, "loader backend").open_loader(plan)


def _fits_on_the_gpu(plan: "LoaderPlan") -> bool:
    if plan.device == "cpu":
        return False
    import torch

    from loaders.reader import decoded_bytes, open_samples

    free, _ = torch.cuda.mem_get_info(plan.device)
    return decoded_bytes(open_samples(plan)) <= free / 4
