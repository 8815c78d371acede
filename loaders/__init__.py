"""From betons to batches: plans, and the backends that carry them out.

`open_loader(plan)` is all that training code needs. A backend is a file of `loaders/backends/`; `loaders.backend` says
what it yields. Same plan, same epoch: same batches, whichever backend and however many threads.
"""

from typing import TYPE_CHECKING

from writers import names

if TYPE_CHECKING:
    from loaders.backend import Loader
    from loaders.plan import LoaderPlan


def open_loader(plan: "LoaderPlan") -> "Loader":
    """The plan's loader. Raises UserError for an unknown backend, and for a beton that is absent or damaged."""
    return names.find("loaders.backends", plan.backend, "loader backend").open_loader(plan)
