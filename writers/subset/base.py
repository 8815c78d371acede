"""What a step of a subset is: from what earlier steps have left to what it leaves.

Each step has one key and is a pure function of class names, labels, sample ids and its seed. Steps on classes
(`writers/subset/class_steps.py`) speak of the source's own classes, also behind a `coarsen`, so these two may stand in either order.
Steps on images (`writers/subset/image_steps.py`) choose among the images of train alone, and val and test keep all of theirs;
`per_class` and `fraction` may name other `splits`. Whatever is drawn is nested: with the same seed, the smaller choice is
part of the larger.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from writers import names
from writers.errors import UserError
from writers.subset.ranking import Ranking

if TYPE_CHECKING:
    import numpy as np

# Strict: `1.0` is neither one class nor all of them, and `true` is no number.
Count = Annotated[int, Field(ge=1, strict=True)]
Amount = Count | Annotated[float, Field(gt=0, lt=1, strict=True)]
Chooser = Callable[
    ["np.ndarray", "np.ndarray"], "np.ndarray"
]  # ids, labels -> positions that stay, rising


@dataclass(frozen=True)
class Selection:
    """What the steps so far have left: source classes in order, the label name of each, and choosers of training images."""

    classes: tuple[str, ...]
    label_of: dict[str, str] = field(
        default_factory=dict
    )  # of coarsened classes; the others are their own label
    choosers: tuple["Chosen", ...] = ()

    def keep(self, wanted: set[str]) -> "Selection":
        return replace(self, classes=tuple(name for name in self.classes if name in wanted))


@dataclass(frozen=True)
class Chosen:
    """A step on images: what it is, for the digest; whether it counts coarsened labels or classes; and how it chooses."""

    what: list[Any]
    by_label: bool
    choose: Chooser
    splits: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Facts:
    """What a step may look at beside the classes."""

    all_classes: tuple[str, ...]  # of the source
    ranking: Ranking | None = None  # the recipe's own
    class_counts: dict[str, int] | None = None  # training images of each class
    resolve_named: Callable[[str], "Selection"] = lambda name: Selection(())


class Step(BaseModel):
    """One step, or what stands behind its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        known = [key for key in cls.model_fields if key != "sha256"]
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(str(names.unknown("setting", str(key), known)).replace("\n", " "))
        return value

    def apply(self, selection: Selection, facts: Facts) -> Selection:
        """What is left. Raises UserError for what the source does not have."""
        raise NotImplementedError


def or_just(key: str) -> BeforeValidator:
    """Lets a number alone stand for `{key: number}`: per_class: 100."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, int | float) else value)


def drawn(classes: Sequence[str], purpose: str, seed: int) -> list[str]:
    """The classes in an order that depends on their names and the seed alone."""
    from writers.random_streams import draw, sample_ids

    return [
        classes[index] for index in draw(seed, purpose, sample_ids(classes)).argsort(kind="stable")
    ]


def some(classes: Sequence[str]) -> str:
    """The first few, for a message."""
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def existing_file(path: str) -> Path:
    """Raises UserError where there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path}.")
    return file


def digest_of(name: str, find: Callable[[str], Path], known: str | None, what: str) -> str:
    """sha256 of a file that a subset goes by. Raises ValueError, for pydantic, where it is missing or has changed."""
    try:
        digest = hashlib.sha256(find(name).read_bytes()).hexdigest()
    except UserError as error:
        raise ValueError(str(error)) from error
    if known not in (None, digest):
        raise ValueError(f"the {what} {name} has changed since this subset was chosen by it")
    return digest
