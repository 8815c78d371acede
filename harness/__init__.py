"""Run a recipe (YAML file of a study): pretrain and transfer many models, timed and resumable.

    import harness, pandas

    harness.run("demo", set={"seeds": [0, 1]})
    table = pandas.DataFrame(harness.results("demo", set={"seeds": [0, 1]}))

Both functions are imported when they are used, so that `import harness` imports nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import results, run

__all__ = ["results", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
