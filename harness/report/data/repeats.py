"""Find `.beton` files and models that are equal, although the keys of their stages differ.

Two subsets may select the same images. Two variants may be the same training: if a subset has all
images, "equal steps" and "equal epochs" give the same number of steps. Such models would count
twice, and their differences of zero would dilute an effect.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from harness.matrix.stage import canonical
from harness.runner.result import Result


class Repeat(NamedTuple):
    """The result of a stage whose model or `.beton` files equal those of an earlier stage."""

    result: Result
    first: Result


def repeated_betons(betons: Iterable[Result]) -> list[Repeat]:
    """Find write stages whose files have the same digests as those of an earlier write stage."""
    return _repeats((beton, _files(beton)) for beton in betons)


def repeated_models(models: Iterable[Result], betons: Mapping[str, Result]) -> list[Repeat]:
    """Find models that were trained with the same images, settings and steps as an earlier model.

    Args:
        models: results of pretraining.
        betons: key -> result of a write stage.
    """
    return _repeats((model, _training(model, betons)) for model in models)


def describe(repeats: Iterable[Repeat]) -> list[str]:
    """Describe each pair once, as `b is a`, by the axes in which the two differ."""
    pairs = []
    for repeat in repeats:
        axes, first = repeat.result.axes, repeat.first.axes
        differing = [axis for axis in ("subset", "variant") if axes.get(axis) != first.get(axis)]
        name, other = (
            ", ".join(str(one.get(axis) or "plain") for axis in differing) for one in (axes, first)
        )
        at = f" for {axes.get('subset')}" if differing == ["variant"] else ""
        if differing:
            pairs.append(f"{name} is {other}{at}")
    return list(dict.fromkeys(pairs))


def _repeats(identified: Iterable[tuple[Result, object]]) -> list[Repeat]:
    firsts: dict[object, Result] = {}
    repeats = []
    for result, identity in identified:
        if identity is not None:
            first = firsts.setdefault(identity, result)
            if first.key != result.key:
                repeats.append(Repeat(result, first))
    return repeats


def _files(beton: Result) -> object | None:
    digests: dict[str, Any] = {
        split: file.get("sha256") for split, file in (beton.metrics.get("splits") or {}).items()
    }
    if not digests or not all(digests.values()):
        return None
    return tuple(sorted(digests.items())), tuple(beton.metrics.get("classes") or ())


def _training(model: Result, betons: Mapping[str, Result]) -> object | None:
    """Return a key of images, settings and steps; None if one of them is unknown."""
    data = betons.get(model.needs.get("data", ""))
    files = None if data is None else _files(data)
    num_steps = model.metrics.get("num_steps")
    if files is None or num_steps is None:
        return None
    settings = {
        name: value for name, value in model.config.get("settings", {}).items() if name != "length"
    }
    return files, canonical({**model.config, "settings": settings}), num_steps
