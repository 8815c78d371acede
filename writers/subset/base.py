"""Contract of a step of a subset: it maps the selection of earlier steps to a new one.

Each step has one key and is a pure function of class names, labels, sample ids, its seed and, in
`writers/subset/score_steps.py`, scores of models. Steps on classes
(`writers/subset/class_steps.py`) refer to the source's classes, also after `granularity`, so their
order does not matter. Steps on images (`writers/subset/image_steps.py`) choose among train
images; val and test keep all of theirs, unless `per_class` and `fraction` name other `splits`.
Draws are nested: with the same seed, the smaller choice is part of the larger.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from writers import names
from writers.errors import UserError
from writers.regular_file import read_regular
from writers.subset.lists import MAX_LIST_BYTES
from writers.subset.ranking import Ranking
from writers.subset.scores import ScoreRequest, Scores

if TYPE_CHECKING:
    import numpy as np

REFERENCE = "reference"  # value of `by`: the ranking or the scores made by the recipe

# Strict: `1.0` is neither one class nor all of them, and `true` is not a number.
Count = Annotated[int, Field(ge=1, strict=True)]
Amount = Count | Annotated[float, Field(gt=0, lt=1, strict=True)]
# ids, labels -> chosen positions, ascending
Chooser = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]
# Images per class or label before a step -> after it.
Counter = Callable[[Mapping[str, int]], dict[str, int]]


@dataclass(frozen=True)
class Selection:
    """Selection so far: source classes in order, their label names, and choosers of images."""

    classes: tuple[str, ...]
    # of merged classes; others are their own label
    label_of: dict[str, str] = field(default_factory=dict)
    choosers: tuple["Chosen", ...] = ()

    def keep(self, wanted: set[str]) -> "Selection":
        """Keep only the wanted classes, in their order."""
        return replace(self, classes=tuple(name for name in self.classes if name in wanted))


@dataclass(frozen=True)
class Chosen:
    """A step on images: its description for the digest, what it counts, and how it chooses.

    Attributes:
        count: training images that it leaves. None if only its total is known.
        total: training images that it leaves in total. None if `count` gives them.
    """

    what: list[Any]
    by_label: bool
    choose: Chooser
    splits: tuple[str, ...] = ("train",)
    count: Counter | None = None
    total: Callable[[], int] | None = None


@dataclass(frozen=True)
class SubsetContext:
    """Context of a step, in addition to the classes."""

    all_classes: tuple[str, ...]  # ranking of the source
    ranking: Ranking | None = None  # ranking by the recipe's reference model
    class_counts: dict[str, int] | None = None  # training images per class
    # scores by the recipe's models; role of a request -> scores
    scores: Mapping[str, Scores] = field(default_factory=dict)
    resolve_named: Callable[[str], "Selection"] = lambda name: Selection(())


class Step(BaseModel):
    """A step, or the settings of its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        known = [key for key in cls.model_fields if key != "sha256"]
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(str(names.unknown("setting", str(key), known)).replace("\n", " "))
        return value

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """Return the new selection. Raises UserError for classes that the source lacks."""
        raise NotImplementedError

    @property
    def request(self) -> ScoreRequest | None:
        """Scores that the step needs from the recipe. None means it needs none."""
        return None


def from_number(key: str) -> BeforeValidator:
    """Accept a bare number for `{key: number}`, as in per_class: 100."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, int | float) else value)


def shuffled(classes: Sequence[str], purpose: str, seed: int) -> list[str]:
    """Order classes by names and seed only."""
    from writers.random_streams import random_bits, sample_ids

    return [
        classes[index]
        for index in random_bits(seed, purpose, sample_ids(classes)).argsort(kind="stable")
    ]


def with_digest(value: Any, key: str, find: Callable[[str], Path], what: str) -> Any:
    """Fill in `sha256` of the file that a setting names.

    Args:
        value: settings before their validation. Others than a mapping with a file are returned.
        key: the setting.
        find: returns the file of a name.
        what: description of the file for messages.

    Raises:
        ValueError: the file is missing or unreadable, or its digest differs from the given one.
    """
    name = value.get(key) if isinstance(value, dict) else None
    if not isinstance(name, str) or (key == "by" and name == REFERENCE):
        return value
    try:
        digest = hashlib.sha256(read_regular(find(name), MAX_LIST_BYTES)).hexdigest()
    except UserError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
    if value.get("sha256") not in (None, digest):
        raise ValueError(f"the {what} {name} has changed since this subset used it")
    return {**value, "sha256": digest}


def num_of(amount: int | float | None, total: int) -> int:
    """Return a number (integer) or a fraction of `total` as a number, rounded; 0 for None."""
    if amount is None:
        return 0
    return amount if isinstance(amount, int) else int(amount * total + 0.5)
