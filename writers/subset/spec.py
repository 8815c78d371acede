"""Define subsets, from a name or a few lines of YAML: source classes, their images and labels.

    subsets: [all, in900, {name: minus10, remove: {hardest: 10, by: reference}},
              {name: dogs, under: n02084071, per_class: 100},
              {name: few, steps: [in900, {granularity: {bottom_up: 79}}, {per_class: 100}]}]

A name such as `in900` is a file of the package, `writers/subsets/in900.txt` with one class per line
or `in900.yaml` with steps (`writers/subset/registry.py`). Labels follow the class order of the
source. No image is copied: a subset is a choice of samples by id.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from writers import names
from writers.errors import UserError
from writers.regular_file import existing_file
from writers.settings_errors import sentence
from writers.subset.base import REFERENCE, Chosen, Selection, SubsetContext
from writers.subset.class_steps import ByRanking, Granularity, Keep, Listed, Remove
from writers.subset.lists import available, file_of, read_class_list
from writers.subset.ranking import Ranking
from writers.subset.registry import STEPS, AnyStep, is_step, step
from writers.subset.scores import ScoreRequest, Scores
from writers.text_names import counted

if TYPE_CHECKING:
    import numpy as np


class SubsetSpec(BaseModel):
    """Specification of a subset in a recipe: an ordered list of steps.

    A bare name can be given instead, or a mapping of the name and the steps' keys in the order of
    the steps. The name of another subset among the steps is replaced by that subset's steps, so
    that the specification is complete.

    Attributes:
        name: name in reports and in names of stages.
        classes: source classes to keep. None means all.
        remove: classes to remove by a ranking. None removes none.
        steps: further steps, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    remove: ByRanking | None = None
    steps: tuple[Annotated[AnyStep, BeforeValidator(step)], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return named(value).model_dump(exclude_unset=True)
            except UserError as error:
                raise ValueError(str(error)) from error
        return _with_tuples(_with_steps(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check_unique_classes(self) -> Self:
        if twice := [name for name, number in Counter(self.classes or ()).items() if number > 1]:
            raise ValueError(f"the class {twice[0]} is listed twice")
        return self

    @property
    def keeps_all_images(self) -> bool:
        """True if the steps change only labels."""
        return all(isinstance(step, Granularity) for step in self.all_steps)

    @property
    def all_steps(self) -> list[AnyStep]:
        """All steps in order, starting with those that are written as `classes` and `remove`."""
        first: list[AnyStep] = []
        if self.classes is not None:
            first.append(Listed(classes=self.classes))
        if self.remove is not None:
            first.append(Remove(remove=self.remove))
        return [*first, *self.steps]

    @property
    def needs_ranking(self) -> str | None:
        """Ranking that the subset needs, or None: `reference` if a step uses it, else the first."""
        rankings = [
            item.remove.by if isinstance(item, Remove) else item.keep.by
            for item in self.all_steps
            if isinstance(item, Remove | Keep)
        ]
        return REFERENCE if REFERENCE in rankings else next(iter(rankings), None)

    @property
    def requests(self) -> list[ScoreRequest]:
        """Distinct scores that the subset needs from the recipe."""
        wanted = [item.request for item in self.all_steps]
        return list(dict.fromkeys(request for request in wanted if request is not None))

    @property
    def selection_targets(self) -> tuple[str, ...]:
        """Target datasets whose train and val images affect the choice; usually ()."""
        return tuple(dict.fromkeys(name for request in self.requests for name in request.targets))

    @property
    def is_everything(self) -> bool:
        """True if the subset keeps all classes and images."""
        return not self.all_steps


@dataclass(frozen=True)
class Subset:
    """A resolved subset: label k is `classes[k]` and contains the source classes `groups[k]`."""

    name: str
    classes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()  # empty means that each class is its own group
    # steps that choose images, mostly of train; empty means that all images are kept
    choosers: tuple[Chosen, ...] = field(default=(), compare=False)

    @cached_property
    def digest(self) -> str:
        """sha256 of the class names, one per line in label order, and of groups and choosers."""
        text = "\n".join(self.classes)
        if self.groups or self.choosers:
            more = {"groups": self.groups, "examples": [chosen.what for chosen in self.choosers]}
            text += "\n" + json.dumps(more, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def source_classes(self) -> tuple[str, ...]:
        """Source classes of the subset, group by group."""
        return (
            tuple(name for group in self.groups for name in group) if self.groups else self.classes
        )

    def label_table(self, source_classes: Sequence[str]) -> "np.ndarray":
        """Return the new label of each source class, int64 [source classes]; -1 if removed."""
        import numpy as np

        groups = self.groups or tuple((name,) for name in self.classes)
        new_label = {name: label for label, group in enumerate(groups) for name in group}
        return np.array([new_label.get(name, -1) for name in source_classes], np.int64)

    def select(
        self, split: str, source_classes: Sequence[str], labels: "np.ndarray", ids: "np.ndarray"
    ) -> "tuple[np.ndarray, np.ndarray]":
        """Choose the samples of a split.

        Samples are chosen by id, so a tree, an archive and a `.beton` file of the same images give
        the same result.

        Args:
            split: train, val or test.
            source_classes: classes of the source in label order.
            labels: int64 [N], indices into `source_classes`.
            ids: uint64 [N].

        Returns:
            Positions, int64 [M], ascending, and new labels, int64 [M].
        """
        table = self.label_table(source_classes)
        positions = (table[labels] >= 0).nonzero()[0]
        for chosen in (chosen for chosen in self.choosers if split in chosen.splits):
            labels_here = labels[positions]
            positions = positions[
                chosen.choose(
                    ids[positions], table[labels_here] if chosen.by_label else labels_here
                )
            ]
        return positions, table[labels[positions]]


def named(name: str) -> SubsetSpec:
    """Read a subset of the package by name, or from a file with YAML or one class per line.

    Raises:
        UserError: the name is unknown; the hint has similar names. Or the file is invalid.
    """
    if name == "all":
        return SubsetSpec(name="all")
    if name.endswith((".yaml", ".yml")):
        return read_spec(existing_file(name))
    if name.endswith(".txt"):
        return _class_list(existing_file(name))
    name = next(
        (known for known in available() if names.normalize(known) == names.normalize(name)), name
    )
    file = file_of(name)
    if file.suffix == ".yaml":
        return read_spec(file)
    return _class_list(file)


def _class_list(path: Path) -> SubsetSpec:
    """Read a subset from a text file with one class per line. Raises UserError."""
    try:
        return SubsetSpec(name=path.stem, classes=read_class_list(path))
    except ValidationError as error:
        raise UserError(
            f"{path} is not a list of classes, one per line: {sentence(error.errors()[0])}",
            "Write one class per line, or name a YAML file of steps.",
        ) from error


def read_spec(path: Path) -> SubsetSpec:
    """Read a subset from a YAML file. Its default name is that of the file. Raises UserError."""
    from writers.formats.bounded_yaml import BadYamlError, read_yaml

    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except BadYamlError as error:
        line = f":{error.line}" if error.line else ""
        raise UserError(f"{path}{line} is not YAML of a subset: {error}") from error
    if isinstance(content, list):
        content = {"steps": content}
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a subset: it must be steps, or a mapping of them, such as under: "
            "n02084071."
        )
    try:
        return SubsetSpec.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}:{_line(content, first['loc'])}: {place + ': ' if place else ''}"
            f"{sentence(first)}"
        ) from error


def _line(content: Any, place: Sequence[str | int]) -> int:
    """Return the line, from 1, of the value at `place`: its keys and indices, outermost first."""
    line = 1
    for part in place:
        places: Any = getattr(content, "lc", None)  # ruamel.yaml's line numbers
        if isinstance(content, dict) and part in content:
            line, content = places.key(part)[0] + 1 if places else line, content[part]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            line, content = places.item(part)[0] + 1 if places else line, content[part]
    return line


def _with_steps(value: dict[str, Any]) -> dict[str, Any]:
    """Move the keys that are steps into `steps`; replace names of subsets there by their steps.

    Raises ValueError for unknown keys and subsets, or if there are keys besides `steps`.
    """
    flat_keys = [key for key in value if key not in SubsetSpec.model_fields]
    for key in flat_keys:
        if not is_step(key):
            raise ValueError(
                str(names.unknown("step", str(key), [*STEPS, "name", "steps"])).replace("\n", " ")
            )
    if flat_keys and "steps" in value:
        raise ValueError(f"put {flat_keys[0]} into the steps, so that their order is clear")
    if flat_keys:
        steps = [{key: inner} for key, inner in value.items() if is_step(key)]
        value = {key: inner for key, inner in value.items() if not is_step(key)} | {"steps": steps}
    if not isinstance(value.get("steps"), list) or not any(
        isinstance(item, str) for item in value["steps"]
    ):
        return value
    expanded: list[Any] = []
    for item in value["steps"]:
        try:
            expanded += named(item).all_steps if isinstance(item, str) else [item]
        except UserError as error:
            raise ValueError(str(error).replace("\n", " ")) from error
    return {**value, "steps": expanded}


def _with_tuples(value: Any) -> Any:
    """Convert lists to tuples: strict validation accepts lists for tuples only in JSON."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return (
        tuple(_with_tuples(inner) for inner in value) if isinstance(value, list | tuple) else value
    )


def everything(classes: Sequence[str]) -> Subset:
    """Return the subset that keeps all classes and images."""
    return Subset("all", tuple(classes))


def resolve(
    spec: SubsetSpec,
    classes: Sequence[str],
    ranking: Ranking | None = None,
    *,
    class_counts: Mapping[str, int] | None = None,
    scores: Mapping[str, Scores] | None = None,
) -> Subset:
    """Apply a specification to a source's `classes`, in the source's order.

    Args:
        spec: the specification.
        classes: classes of the source in label order.
        ranking: needed for rankings with `by: reference`; None if there is none.
        class_counts: training images per class, needed for a budget; None if they are unknown.
        scores: role of a `ScoreRequest` -> scores, needed for scores with `by: reference`; None if
            there are none.

    Raises:
        UserError: a class is not in the source or the ranking, data that a step needs are missing,
            or no class is left.
    """

    def selected(of: SubsetSpec) -> Selection:
        selection = Selection(tuple(classes))
        for item in of.all_steps:
            selection = item.apply(selection, context)
        return selection

    context = SubsetContext(
        tuple(classes),
        ranking,
        dict(class_counts) if class_counts is not None else None,
        scores or {},
        lambda name: selected(named(name)),
    )
    try:
        selection = selected(spec)
    except UserError as error:
        raise UserError(f"Subset {spec.name}: {error.message}", error.hint) from error
    if not selection.classes:
        raise UserError(
            f"Subset {spec.name} leaves none of the source's "
            f"{counted(len(set(classes)), 'class')}.",
            "Check the steps with harness subset show.",
        )
    if not selection.label_of:
        return Subset(spec.name, selection.classes, choosers=selection.choosers)
    groups: dict[str, list[str]] = {}
    for name in selection.classes:
        groups.setdefault(selection.label_of[name], []).append(name)
    labels = sorted(
        groups, key=lambda label: (int(label), "") if label.isdecimal() else (math.inf, label)
    )
    return Subset(
        spec.name,
        tuple(labels),
        tuple(tuple(groups[label]) for label in labels),
        selection.choosers,
    )
