"""Steps on classes: which source classes a subset keeps, and under which labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from writers import names
from writers.errors import UserError
from writers.regular_file import InputPath, existing_file, fault_of
from writers.subset import wordnet
from writers.subset.base import (
    REFERENCE,
    Amount,
    Count,
    Selection,
    Step,
    SubsetContext,
    from_number,
    num_of,
    shuffled,
    with_digest,
)
from writers.subset.lists import read_rows
from writers.subset.ranking import ranking_file, read_ranking
from writers.text_names import counted, preview

RELATED_FILE = Path(__file__).parents[1] / "related_classes.txt"


class Listed(Step):
    """Keep only these classes."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)]

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        return selection.keep(_checked(self.classes, context.all_classes))


class ByRanking(Step):
    """Classes by a model's accuracy: a number (integer) or a fraction below 1.

    Attributes:
        hardest: the classes with the lowest accuracy. None means no classes.
        easiest: the classes with the highest accuracy. None means no classes.
        by: `reference` for the accuracy of the recipe's reference model; or a ranking in
            writers/subsets/ such as resnet18_val; or a CSV file.
        sha256: digest of the file that `by` names, so that a file with other contents defines
            another subset; filled in when the file is first read.
    """

    hardest: Amount | None = None
    easiest: Amount | None = None
    by: Annotated[str, InputPath(is_checked_on_load=True)] = REFERENCE
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_ranking_digest(cls, value: Any) -> Any:
        return with_digest(value, "by", ranking_file, "ranking")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.hardest is None and self.easiest is None:
            raise ValueError("give a number: hardest: 10, or easiest: 0.1")
        return self

    def chosen(self, selection: Selection, context: SubsetContext) -> set[str]:
        """Return the hardest and easiest classes.

        Raises UserError if there is no ranking, or it lacks a class.
        """
        ranking = context.ranking if self.by == REFERENCE else read_ranking(self.by)
        if ranking is None:
            raise UserError(
                "The subset uses the recipe's reference model, but there is none.",
                "Give a ranking: by: resnet18_val, or by: a CSV file with the columns class and "
                "accuracy.",
            )
        if missing := sorted(set(selection.classes) - set(ranking.classes)):
            raise UserError(
                f"The ranking {self.by} lacks {counted(len(missing), 'class')} of the source: "
                f"{preview(missing)}.",
                "Rank the same classes: harness subset rank; or remove them in an earlier step.",
            )
        ranked = ranking.restricted_to(set(selection.classes)).classes
        hardest = ranked[: num_of(self.hardest, len(ranked))]
        return {*hardest, *ranked[max(0, len(ranked) - num_of(self.easiest, len(ranked))) :]}


class Remove(Step):
    """Remove the hardest or the easiest classes."""

    remove: ByRanking

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        return selection.keep(set(selection.classes) - self.remove.chosen(selection, context))


class Keep(Step):
    """Keep only the hardest or the easiest classes."""

    keep: ByRanking

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        return selection.keep(self.keep.chosen(selection, context))


class RandomClasses(Step):
    """A number of random classes.

    Attributes:
        classes: number of classes.
        seed: seed of the choice.
    """

    classes: Count
    seed: int = 0


class Random(Step):
    """Keep a number of random classes."""

    random: Annotated[RandomClasses, from_number("classes")]

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        if self.random.classes > len(selection.classes):
            raise UserError(
                f"The subset draws {self.random.classes} classes, and there are only "
                f"{len(selection.classes)}.",
                "Draw fewer classes.",
            )
        return selection.keep(
            set(shuffled(selection.classes, "classes", self.random.seed)[: self.random.classes])
        )


class Under(Step):
    """Keep only classes at or below these WordNet nodes."""

    under: str | tuple[str, ...]

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        return selection.keep(set(wordnet.under(_as_tuple(self.under), selection.classes)))


class Excluded(Step):
    """Classes to remove: related to a downstream dataset, under WordNet nodes, or listed.

    Attributes:
        related_to: downstream datasets, or `pascal`, whose related classes are removed.
        under: WordNet nodes; the classes at or below them are removed.
        classes: the listed classes.
    """

    related_to: str | tuple[str, ...] = ()
    under: str | tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        for target in _as_tuple(self.related_to):
            if target not in related_targets():
                raise ValueError(
                    str(names.unknown("list of related classes", target, related_targets()))
                )
        if not (self.related_to or self.under or self.classes):
            raise ValueError("give one of related_to: pascal, under: n02084071, or classes: [...]")
        return self


class Exclude(Step):
    """Remove related classes, classes at or below WordNet nodes, or listed classes."""

    exclude: Excluded

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        out = _checked(self.exclude.classes, context.all_classes)
        for target in _as_tuple(self.exclude.related_to):
            out |= related(target, context.all_classes)
        if self.exclude.under:
            out |= set(wordnet.under(_as_tuple(self.exclude.under), selection.classes))
        return selection.keep(set(selection.classes) - out)


class Coarser(Step):
    """A coarser label set of WordNet, or a map of classes to labels.

    Exactly one of `bottom_up`, `top_down` and `map` is given; the others are None.

    Attributes:
        bottom_up: size of one of Huh et al.'s bottom-up label sets (writers/subset/wordnet.py).
        top_down: size of one of their top-down label sets.
        map: a map in writers/subsets, or a file with a line `class,label` per class or, as in the
            files of Huh et al., a line `path label` per image.
        sha256: digest of the file that `map` names; filled in when the file is first read. None for
            the other label sets.
    """

    bottom_up: int | None = None
    top_down: int | None = None
    map: Annotated[str, InputPath(is_checked_on_load=True)] | None = None
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_map_digest(cls, value: Any) -> Any:
        return with_digest(value, "map", _map_file, "label map")

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if sum(value is not None for value in (self.bottom_up, self.top_down, self.map)) != 1:
            raise ValueError("give one of bottom_up: 79, top_down: 127, map: FILE")
        for what, size, sizes in (
            ("bottom_up", self.bottom_up, wordnet.BOTTOM_UP_SIZES),
            ("top_down", self.top_down, wordnet.TOP_DOWN_SIZES),
        ):
            if size is not None and size not in sizes:
                raise ValueError(
                    f"there is no {what} label set of {size} labels; their sizes are "
                    f"{', '.join(map(str, sizes))}"
                )
        return self


class Granularity(Step):
    """Merge classes under coarser labels; keep all images."""

    granularity: Coarser

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        if self.granularity.bottom_up is not None:
            labels = wordnet.bottom_up(self.granularity.bottom_up, context.all_classes)
        elif self.granularity.top_down is not None:
            labels = wordnet.top_down(self.granularity.top_down, context.all_classes)
        else:
            assert self.granularity.map is not None
            labels = _read_map(_map_file(self.granularity.map), context.all_classes)
        return replace(selection, label_of=labels)


class OneHalf(Step):
    """One of two halves of the classes.

    Attributes:
        of: random: random halves. minimal: halves that share as few WordNet nodes as possible.
        which: the first or the second half.
        seed: seed of random halves.
    """

    of: Literal["random", "minimal"]
    which: Literal["A", "B"]
    seed: int = 0

    @model_validator(mode="after")
    def _check_seed(self) -> Self:
        if self.of == "minimal" and "seed" in self.model_fields_set and self.seed:
            raise ValueError("a minimal half draws nothing; seed has no effect")
        return self


class Half(Step):
    """Keep one of two disjoint halves of the classes."""

    half: OneHalf

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        if self.half.of == "random":
            first = set(
                shuffled(selection.classes, "half", self.half.seed)[: len(selection.classes) // 2]
            )
        else:
            from writers.subset.wordnet_halves import minimal_half  # imports numpy

            first = set(minimal_half(selection.classes))
        return selection.keep(first if self.half.which == "A" else set(selection.classes) - first)


def related_targets() -> list[str]:
    """List the downstream datasets with related classes: by a rule for PASCAL VOC, else by hand."""
    return ["pascal", *_related_lists()]


def related(target: str, classes: Sequence[str]) -> set[str]:
    """Return those of `classes` that are related to a downstream dataset."""
    return (
        set(wordnet.pascal_related(classes))
        if target == "pascal"
        else _related_lists()[target] & set(classes)
    )


@cache
def _related_lists() -> dict[str, set[str]]:
    rows = (
        line.split("\t")
        for line in RELATED_FILE.read_text().splitlines()
        if not line.startswith("#")
    )
    return {target: set(wnids.split()) for target, wnids in rows}


def _checked(wanted: Sequence[str], classes: Sequence[str]) -> set[str]:
    known = set(classes)
    if missing := sorted(set(wanted) - known):
        raise UserError(
            f"The source lacks {len(missing)} of the {counted(len(set(wanted)), 'class')} of the "
            f"subset: {preview(missing)}.",
            f"It has {counted(len(known), 'class')}, such as {preview(sorted(known))}.",
        )
    return set(wanted)


def _as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _map_file(name_or_path: str) -> Path:
    own = Path(__file__).parents[1] / "subsets" / f"{name_or_path}.map"
    is_packaged = fault_of(own) is None and own.is_file()
    return own if is_packaged else existing_file(name_or_path)


def _read_map(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Return class -> label, read from a file.

    Raises UserError if a line has another form, or if a class has no label or two labels.
    """
    rows = [row for _, row in read_rows(path)]
    if any(len(row) == 1 for row in rows):  # without commas, columns are separated by spaces
        rows = [",".join(row).split() for row in rows]
    label_of: dict[str, str] = {}
    for row in rows:
        if len(row) != 2:
            raise UserError(
                f"{path}: '{','.join(row)}' is not a class and its label.",
                "Each line is `class,label`.",
            )
        # the files of Huh et al. have a line per image: n01440764/x.JPEG 3
        name = row[0] if "/" not in row[0] else Path(row[0]).parent.name
        if label_of.setdefault(name, row[1]) != row[1]:
            raise UserError(
                f"{path} gives the class {name} two labels, {label_of[name]} and {row[1]}.",
                "Keep one of the two lines.",
            )
    if missing := [name for name in classes if name not in label_of]:
        raise UserError(
            f"{path} gives {len(missing)} of the classes no label: {preview(missing)}.",
            "Add a line for each class of the source, also for those that other steps remove.",
        )
    return {name: label_of[name] for name in classes}
