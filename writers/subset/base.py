"""Contract of a step of a subset: it maps the selection of earlier steps to a new selection.

Each step has one key and is a pure function of class names, labels, sample ids, its seed and, in
`writers/subset/score_steps.py`, scores of models. Steps on classes
(`writers/subset/class_steps.py`) always name classes of the source, also after `granularity`. Their
numbers and fractions are of the classes that earlier steps leave. Steps on images
(`writers/subset/image_steps.py`) choose training images. All images of val and test are kept,
unless `splits` of `per_class` or `fraction` names other splits. Draws are nested: with the same
seed, a smaller choice is part of a larger one.
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

REFERENCE = "reference"  # value of `by` for the ranking or the scores that the recipe computes

# Strict, because `1.0` could mean one class or all of them, and `true` is not a number.
Count = Annotated[int, Field(ge=1, strict=True)]
Amount = Count | Annotated[float, Field(gt=0, lt=1, strict=True)]
# Maps ids (uint64 [N]) and labels (int64 [N]) to the positions of the chosen images, ascending.
Chooser = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]
# Maps the number of images per class or label before a step to the number after it.
Counter = Callable[[Mapping[str, int]], dict[str, int]]


@dataclass(frozen=True)
class Selection:
    """Result of the steps so far: source classes in order, their labels, and choosers of images."""

    classes: tuple[str, ...]
    # merged class -> label; the label of any other class is its name
    label_of: dict[str, str] = field(default_factory=dict)
    choosers: tuple["Chosen", ...] = ()

    def keep(self, wanted: set[str]) -> "Selection":
        """Keep only the wanted classes, in their order."""
        return replace(self, classes=tuple(name for name in self.classes if name in wanted))


@dataclass(frozen=True)
class Chosen:
    """A step on images.

    Attributes:
        what: description of the step for the subset's digest.
        by_label: `choose` gets labels of the subset. If False, it gets labels of the source.
        choose: chooses the images.
        splits: splits that the step applies to.
        count: returns the training images per class that the step leaves. None if only the total
            is known.
        total: returns the training images that the step leaves in total. None if `count` is given.
    """

    what: list[Any]
    by_label: bool
    choose: Chooser
    splits: tuple[str, ...] = ("train",)
    count: Counter | None = None
    total: Callable[[], int] | None = None


@dataclass(frozen=True)
class SubsetContext:
    """Data that a step may need in addition to the selection."""

    all_classes: tuple[str, ...]  # all classes of the source
    ranking: Ranking | None = None  # ranking by the recipe's reference model; None without one
    class_counts: dict[str, int] | None = None  # training images per class; None if unknown
    # role of a request -> scores by the recipe's models
    scores: Mapping[str, Scores] = field(default_factory=dict)
    # maps the name of another subset to its selection
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
        """Return the new selection.

        Raises UserError if the source lacks a class that the step needs, or if its ranking or
        scores are missing or incomplete.
        """
        raise NotImplementedError

    @property
    def request(self) -> ScoreRequest | None:
        """Scores that the step needs from the recipe. None means it needs none."""
        return None


def from_number(key: str) -> BeforeValidator:
    """Accept a bare number for `{key: number}`, as in per_class: 100."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, int | float) else value)


def shuffled(classes: Sequence[str], purpose: str, seed: int) -> list[str]:
    """Shuffle classes. The order depends only on their names, the purpose and the seed."""
    from writers.random_streams import random_bits, sample_ids

    return [
        classes[index]
        for index in random_bits(seed, purpose, sample_ids(classes)).argsort(kind="stable")
    ]


def with_digest(value: Any, key: str, find: Callable[[str], Path], what: str) -> Any:
    """Add the `sha256` of the file that a setting names to the settings.

    Args:
        value: settings before their validation. They are returned unchanged if they are not a
            mapping that names a file, or if `by` is `reference`.
        key: the setting.
        find: maps the value of the setting to a file.
        what: description of the file for messages.

    Raises:
        ValueError: the file is missing or unreadable, or a given `sha256` is not that of the file.
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
    """Return an integer unchanged, a fraction as a rounded number of `total`, and None as 0."""
    if amount is None:
        return 0
    return amount if isinstance(amount, int) else int(amount * total + 0.5)
