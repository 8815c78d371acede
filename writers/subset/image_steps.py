"""Steps on images: which training images of its classes a subset keeps.

Images are chosen by id, so that the choice does not depend on their order and storage.
`writers/subset/sampling.py`, which needs numpy, is imported only when images are chosen: a recipe
is read faster without it.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from writers.errors import UserError
from writers.regular_file import InputPath, existing_file
from writers.subset.base import (
    Chooser,
    Chosen,
    Count,
    Counter,
    Selection,
    Step,
    SubsetContext,
    from_number,
    shuffled,
    with_digest,
)
from writers.text_names import counted

Splits = Annotated[tuple[Literal["train", "val", "test"], ...], Field(min_length=1)]


class ImagesPerClass(Step):
    """A number of images per label, and the splits that it applies to.

    Attributes:
        images: number of images.
        seed: seed of the choice.
        splits: splits that lose images.
    """

    images: Count
    seed: int = 0
    splits: Splits = ("train",)


class PerClass(Step):
    """Keep a number of random training images per label, or all if there are fewer."""

    per_class: Annotated[ImagesPerClass, from_number("images")]

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        from writers.subset import sampling

        wanted = self.per_class
        return with_chooser(
            selection,
            self,
            partial(sampling.num_per_class, wanted.images, wanted.seed),
            splits=wanted.splits,
            count=lambda counts: {
                name: min(number, wanted.images) for name, number in counts.items()
            },
        )


class Images(Step):
    """A number of training images, given or equal to another subset's.

    Attributes:
        images: number of images.
        like: name or file of a subset that has the number of images to keep, instead of `images`.
        sha256: digest of `like` if it is a user's file, which may change; filled in. Else None.
        by: classes: keep all images of a few random classes. examples: keep a few images per label.
        classes: number of random classes to spread the images over, instead of `by`.
        seed: seed of the choice.
    """

    images: Count | None = None
    like: Annotated[str, InputPath(is_checked_on_load=True)] | None = None
    sha256: str | None = None
    by: Literal["classes", "examples"] | None = None
    classes: Count | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_subset_digest(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not str(value.get("like", "")).endswith(
            (".yaml", ".yml", ".txt")
        ):
            return value
        from writers.subset.spec import named  # imported here, because spec imports the steps

        try:
            content = named(value["like"]).model_dump_json(exclude={"name"})
        except UserError as error:
            raise ValueError(str(error)) from error
        digest = hashlib.sha256(content.encode()).hexdigest()
        if value.get("sha256") not in (None, digest):
            raise ValueError(
                f"the subset {value['like']} has changed since this one was derived from it"
            )
        return {**value, "sha256": digest}

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if (self.images is None) == (self.like is None):
            raise ValueError("give one of images: 100000, like: in900")
        if (self.by is None) == (self.classes is None):
            raise ValueError("give one of by: classes, by: examples, classes: 500")
        return self


class Budget(Step):
    """Keep a number of training images: all images of few classes, or few images of each label.

    With `classes`, the images are spread over that many random classes: one point of the frontier
    of classes times images per class at a fixed total (arXiv 2305.12224).
    """

    budget: Images

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        from writers.subset import sampling

        like = (
            context.resolve_named(self.budget.like)
            if self.budget.like is not None
            else Selection(())
        )
        if self.budget.classes is not None:
            selection = _random_classes(self.budget.classes, self.budget.seed, selection)
        if self.budget.by != "classes":
            # The number is computed when images are chosen, because a subset is defined before its
            # source is known.
            return with_chooser(
                selection,
                self,
                lambda ids, labels: sampling.spread_over_classes(
                    self._num_images(context, like), self.budget.seed, ids, labels
                ),
                sorted(like.classes),
                *([[chosen.what for chosen in like.choosers]] if like.choosers else []),
                total=lambda: self._num_images(context, like),
            )
        num_images, counts = self._num_images(context, like), _counts_per_class(selection, context)
        kept, total = set(), 0
        for name in shuffled(selection.classes, "classes", self.budget.seed):
            total += counts.get(name, 0)
            if total > num_images:
                break
            kept.add(name)
        return selection.keep(kept)

    def _num_images(self, context: SubsetContext, like: Selection) -> int:
        return self.budget.images or num_left(like, context)


class Examples(Step):
    """Keep only the training images listed in a file, one per line: `<class>/<image>`.

    Extensions, and folders before the class, are optional. Lines may also be ids: 0x and 16
    hexadecimal digits.

    Attributes:
        examples: the file.
        sha256: digest of the file; filled in when the file is first read.
    """

    examples: Annotated[str, InputPath(is_checked_on_load=True)]
    sha256: str | None = None  # digest of the file, filled in when it is first read

    @model_validator(mode="before")
    @classmethod
    def _fill_file_digest(cls, value: Any) -> Any:
        return with_digest(value, "examples", existing_file, "list of examples")

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        from writers.subset import sampling

        wanted = sampling.read_ids(Path(self.examples))
        return with_chooser(
            selection,
            {"examples": self.sha256},
            partial(sampling.listed_ids, wanted, self.examples),
            total=lambda: len(set(wanted.tolist())),
        )


class FractionOf(Step):
    """A fraction of the images per label, and the splits that it applies to.

    Attributes:
        of: the fraction.
        seed: seed of the choice.
        splits: splits that lose images.
    """

    of: Annotated[float, Field(gt=0, lt=1)]
    seed: int = 0
    splits: Splits = ("train",)


class Fraction(Step):
    """Keep a random fraction of the training images per label, at least one."""

    fraction: Annotated[FractionOf, from_number("of")]

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        from writers.subset import sampling

        wanted = self.fraction
        return with_chooser(
            selection,
            self,
            partial(sampling.fraction_per_class, wanted.of, wanted.seed),
            splits=wanted.splits,
            count=lambda counts: {
                name: min(number, max(1, math.floor(number * wanted.of + 0.5)))
                for name, number in counts.items()
            },
        )


def with_chooser(
    selection: Selection,
    what: Any,
    choose: Chooser,
    *more: Any,
    splits: tuple[str, ...] = ("train",),
    count: Counter | None = None,
    total: Callable[[], int] | None = None,
) -> Selection:
    """Add a step on images to a selection.

    `what`, `more` and `splits` other than the default are part of the subset's digest. `Chosen`
    describes `count` and `total`.
    """
    described = (
        what.model_dump(mode="json", exclude_none=True) if isinstance(what, BaseModel) else what
    )
    if isinstance(what, BaseModel):
        for inner in described.values():
            inner.pop("splits", None)
    others = [sorted(set(splits))] if set(splits) != {"train"} else []
    by_label = bool(selection.label_of)
    what_chosen = [described, *more, by_label, *others]
    chosen = Chosen(what_chosen, by_label, choose, splits, count, total)
    return replace(selection, choosers=(*selection.choosers, chosen))


def _random_classes(number: int, seed: int, selection: Selection) -> Selection:
    if number > len(selection.classes):
        raise UserError(
            f"The budget is spread over {counted(number, 'class')}, and there are "
            f"{len(selection.classes)}.",
            "Give as many classes as the source has, or fewer.",
        )
    return selection.keep(set(shuffled(selection.classes, "classes", seed)[:number]))


def _counts(context: SubsetContext) -> dict[str, int]:
    if context.class_counts is None:
        raise UserError(
            "A subset with a budget of images depends on the source's images per class.",
            "It can only be shown or written with its source.",
        )
    return context.class_counts


def _counts_per_class(selection: Selection, context: SubsetContext) -> dict[str, int]:
    """Return the number of training images of each class that the selection's steps leave.

    Raises:
        UserError: the numbers depend on the classes that will be kept.
    """
    counts = _counts(context)
    left = {name: counts.get(name, 0) for name in selection.classes}
    for chosen in _of_train(selection):
        if chosen.count is None or chosen.by_label:
            raise UserError(
                "A budget with by: classes cannot follow a step that spreads its images over all "
                "classes, or that draws images per coarser label.",
                "Put the budget first, or use by: examples.",
            )
        left = chosen.count(left)
    return left


def num_left(selection: Selection, context: SubsetContext) -> int:
    """Return the number of training images that the selection's steps leave in total.

    Raises UserError if it is unknown: the context has no counts, or a step draws images per class
    after a step that leaves only a known total.
    """
    counts = _counts(context)
    left = {name: counts.get(name, 0) for name in selection.classes}
    for chosen in _of_train(selection):
        if chosen.total is not None:
            left = {"": chosen.total()}  # the numbers per class are unknown from here on
        elif chosen.count is not None:
            if "" in left:
                raise UserError(
                    "`like` of a budget cannot name a subset that draws images per class after a "
                    "budget or a list of examples.",
                    "Give the number of images.",
                )
            if chosen.by_label:
                by_label: dict[str, int] = {}
                for name, number in left.items():
                    label = selection.label_of.get(name, name)
                    by_label[label] = by_label.get(label, 0) + number
                left = by_label
            left = chosen.count(left)
    return sum(left.values())


def _of_train(selection: Selection) -> Iterator[Chosen]:
    return (chosen for chosen in selection.choosers if "train" in chosen.splits)
