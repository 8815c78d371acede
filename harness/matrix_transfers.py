"""The transfer stages of a matrix: every model to every target by every method. Imports no torch."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from harness.settings import DataSettings, Recipe
from harness.stage import Stage
from harness.transfer_settings import TransferSettings

JSON = dict[str, Any]


class Transfers:
    """What a recipe does with each model; the settings are dumped once and not per model."""

    def __init__(self, recipe: Recipe, targets: Sequence[tuple[DataSettings, Stage]]) -> None:
        """targets: each with the stage that writes its data."""
        self._points = [(target, data, method, {"method": method, "metric": _metric(target), "settings": _effective(settings)})
                        for target, data in targets for method, settings in recipe.methods.items()]

    def of(self, model: Stage, *, seed: int, short: str) -> Iterator[Stage]:
        """The transfers of one model. short: what names of its stages end in."""
        for target, data, method, config in self._points:
            yield Stage("transfer", {**config, "seed": seed}, {"model": model, "data": data},
                        {**model.axes, "target": target.label, "method": method}, f"transfer/{target.label}/{method}/{short}")


def _effective(settings: TransferSettings) -> JSON:
    """The settings without those that have no effect beside the others; reads back into an equal model."""
    dump = settings.model_dump(mode="json")
    dump["optimizer"] = settings.optimizer.effective()
    del dump["optimizer"]["lr"]     # its `lrs` decide
    return dump


def _metric(target: DataSettings) -> str:
    return target.metric or str(import_module(f"writers.datasets.{target.dataset}").SPEC.metric)
