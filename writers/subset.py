"""Which source classes, in which label order: a name, or a few lines of YAML, resolved to a class list with a digest.

    subsets: [all, in900, {name: minus10, remove: {hardest: 10, by: reference}}]

A name is a file: `in900` is `writers/subsets/in900.txt`, one class a line. Labels follow the source's class order.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from writers import names
from writers.errors import UserError
from writers.ranking import Ranking, ranking_file, read_ranking

FOLDER = Path(__file__).parent / "subsets"
REFERENCE = "reference"     # the ranking that the recipe makes itself

# Strict: `1.0` is neither one class nor all of them, and `true` is no number.
Amount = Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1, strict=True)]


class Removal(BaseModel):
    """Classes to leave out, by a ranking: so many (an integer) or such a share of them (a fraction below 1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hardest: Amount | None = None
    easiest: Amount | None = None
    by: str = REFERENCE     # `reference`, a ranking in writers/subsets/ (resnet18_val), or a CSV file
    sha256: str | None = None   # of that file, filled in when the recipe is read: other contents are another subset

    @model_validator(mode="before")
    @classmethod
    def _look_at_the_ranking(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(by := value.get("by", REFERENCE), str) or by == REFERENCE:
            return value
        try:
            digest = hashlib.sha256(ranking_file(by).read_bytes()).hexdigest()
        except UserError as error:
            raise ValueError(str(error)) from error
        if value.get("sha256") not in (None, digest):
            raise ValueError(f"the ranking {by} has changed since this subset was chosen by it")
        return {**value, "sha256": digest}

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.hardest is None and self.easiest is None:
            raise ValueError("say how many: hardest: 10, or easiest: 0.1")
        return self

    def choose(self, ranking: Ranking) -> set[str]:
        """The classes to leave out."""
        number = len(ranking.classes)
        hardest = ranking.classes[:_count(self.hardest, number)]
        easiest = ranking.classes[max(0, number - _count(self.easiest, number)):]
        return {*hardest, *easiest}


class SubsetSpec(BaseModel):
    """What a recipe says of a subset. Reads from a bare name, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None      # only these; None: all
    remove: Removal | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return named(value).model_dump()
            except UserError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _no_class_twice(self) -> Self:
        if twice := [name for name, number in Counter(self.classes or ()).items() if number > 1]:
            raise ValueError(f"the class {twice[0]} stands there twice")
        return self

    @property
    def needs_ranking(self) -> str | None:
        """The ranking without which the subset cannot be resolved."""
        return self.remove.by if self.remove else None

    @property
    def is_everything(self) -> bool:
        return self.classes is None and self.remove is None


@dataclass(frozen=True)
class Subset:
    """A resolved subset: label k is `classes[k]`."""

    name: str
    classes: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 of the class names, one a line, in label order."""
        return hashlib.sha256("\n".join(self.classes).encode()).hexdigest()

    def select(self, split: str, source_classes: Sequence[str], labels: np.ndarray,
               ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which samples of a split the subset takes, and their new labels: positions int64 [M], rising, labels int64 [M].

        `labels` (int64 [N]) number `source_classes`; `ids` (uint64 [N]) are the samples' own. Samples are chosen by their
        ids alone, so a tree, an archive and a beton of the same images give the same selection.
        """
        new_label = {name: label for label, name in enumerate(self.classes)}
        table = np.array([new_label.get(name, -1) for name in source_classes], np.int64)
        positions = np.flatnonzero(table[labels] >= 0)
        return positions, table[labels[positions]]


def named(name: str) -> SubsetSpec:
    """The subset of that name. Raises UserError, with the near names, for an unknown one."""
    if name == "all":
        return SubsetSpec(name="all")
    if name not in available():
        raise names.unknown("subset", name, ["all", *available()])
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return SubsetSpec(name=name, classes=tuple(line for line in lines if line and not line.startswith("#")))


def available() -> list[str]:
    """Subsets that come with the project, as class lists."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def everything(classes: Sequence[str]) -> Subset:
    return Subset("all", tuple(classes))


def resolve(spec: SubsetSpec, classes: Sequence[str], ranking: Ranking | None = None) -> Subset:
    """The classes that remain of a source's `classes`, in the source's order.

    `ranking`: needed where the spec says `by: reference`. Raises UserError for a class that the source or the ranking
    does not have, and for a subset with nothing left.
    """
    known = set(classes)
    wanted = known if spec.classes is None else set(spec.classes)
    if missing := sorted(wanted - known):
        raise UserError(f"The source lacks {len(missing)} of the {len(wanted)} classes of subset {spec.name}: "
                        f"{_some(missing)}.", f"It has {len(known)} classes, such as {_some(sorted(known))}.")
    removed: set[str] = set()
    if spec.remove is not None:
        ranking = ranking if spec.remove.by == REFERENCE else read_ranking(spec.remove.by)
        if ranking is None:
            raise UserError(f"Subset {spec.name} removes classes by the recipe's reference model, and there is none here.",
                            "Name a ranking: by: resnet18_val, or by: a CSV file with the columns class and accuracy.")
        if missing := sorted(wanted - set(ranking.classes)):
            raise UserError(f"The ranking {spec.remove.by} lacks {len(missing)} classes of the source: {_some(missing)}.")
        removed = spec.remove.choose(ranking.restricted_to(wanted))
    kept = tuple(name for name in classes if name in wanted and name not in removed)
    if not kept:
        raise UserError(f"Subset {spec.name} leaves none of the source's {len(known)} classes.")
    return Subset(spec.name, kept)


def _count(amount: int | float | None, number: int) -> int:
    if amount is None:
        return 0
    return amount if isinstance(amount, int) else int(amount * number + 0.5)


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
