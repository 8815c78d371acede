"""Which settings have an effect on which transfer method, as the files of `harness/methods/` say. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Protocol, cast

from harness.config.transfer import TransferSettings
from writers import names

OF_WEIGHT_DECAY = frozenset({"weight_decay", "decay_norm_and_bias"})  # settings of the optimizer


class Constants(Protocol):
    """Of a file of `harness/methods/`; see `harness.transfer.method.Method`."""

    TAKES: frozenset[str]
    DEFAULT_BN_STATS: str
    NEEDS: str | None


def constants(name: str) -> Constants:
    """Raises UserError, with the near names, for an unknown method."""
    return cast(Constants, names.find("harness.transfer.methods", name, "method"))


def name_of(label: str, settings: TransferSettings) -> str:
    """The method that a recipe means by a label."""
    return names.normalise(settings.method or label)


def work_on_features(methods: Mapping[str, TransferSettings]) -> bool:
    """Whether one of a recipe's methods looks at a model's features and not at the model."""
    return any(
        constants(name_of(label, settings)).NEEDS == "features"
        for label, settings in methods.items()
    )


def without_effect(label: str, settings: TransferSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What was said and does nothing: the key's place below the label, and why."""
    name = name_of(label, settings)
    method = constants(name)
    for key in sorted(settings.model_fields_set - method.TAKES):
        yield (key,), f"has no effect on the method {name}."
    for axis in sorted(settings.grid.axes().keys() - method.TAKES):
        yield ("grid", axis), f"has no effect on the method {name}."
    for key in sorted(settings.optimizer.model_fields_set & (OF_WEIGHT_DECAY - method.TAKES)):
        if "optimizer" in settings.model_fields_set & method.TAKES:
            yield ("optimizer", key), f"has no effect on the method {name}."
    if (
        settings.bn_momentum is not None
        and (settings.bn_stats or method.DEFAULT_BN_STATS) == "frozen"
        and "bn_momentum" in method.TAKES
    ):
        yield ("bn_momentum",), "has no effect on statistics that are frozen."
    if (
        settings.train_from is None
        and "train_from" in method.TAKES
        and settings.grid.train_from is None
    ):
        yield (), f"the method {name} needs train_from, the first stage that trains."
