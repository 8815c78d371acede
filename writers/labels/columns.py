"""Recognize the columns of a table of labels by common names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from writers.errors import UserError
from writers.labels.rows import Table
from writers.labels.settings import LabelTable
from writers.labels.values import flag_of, is_missing
from writers.text_names import counted

# Names of the column of files, as `_plain` returns them. Earlier groups are preferred.
FILE_NAMES = (
    ("file", "filename", "filenames", "filepath", "path", "imagepath", "imagefile", "imgpath"),
    ("image", "imagename", "imageid", "img", "imgname", "imgid", "imagefilename", "picture"),
    ("id", "name", "key"),
)
LABEL_NAMES = frozenset(
    f"{stem}{suffix}"
    for stem in ("label", "class", "category", "target", "species", "breed", "diagnosis")
    for suffix in ("", "name")
)
# Plural names of columns, which suggest that images have several labels.
PLURAL_NAMES = frozenset(("labels", "classes", "categories", "targets", "tags", "attributes"))
SPLIT_NAMES = frozenset(("split", "set", "partition", "subset"))
NAME_THEM = (
    "Name them: --labels-file-column and --labels-column; in a recipe, file_column and "
    "label_columns of `labels`."
)


@dataclass(frozen=True)
class Columns:
    """Positions of the columns of a table.

    Attributes:
        file: names of image files.
        labels: one column of texts, or one column of 0 and 1 per class.
        split: None if the table has no splits.
        has_flags: True if there are several columns of labels that contain 0 and 1. Their names are
            the classes.
        is_plural: True if the name of the column of labels is plural.
    """

    file: int
    labels: tuple[int, ...]
    split: int | None
    has_flags: bool
    is_plural: bool


def recognize(table: Table, settings: LabelTable) -> Columns:
    """Find the columns of files, labels and splits.

    Raises:
        UserError: the table is empty, a named column is missing or has two uses, or it is unclear
            which columns are meant.
    """
    if not table.columns:
        raise UserError(f"{table.path} is empty.", "Its first row names the columns.")
    if not table.rows and not table.ragged:
        raise UserError(f"{table.path} has no rows.", "It needs a row for each image.")
    file = (
        _named(table, settings.file_column)
        if settings.file_column is not None
        else _file_column(table)
    )
    split = _split_column(table, settings.split_column, file)
    others = [at for at in range(len(table.columns)) if at not in (file, split)]
    if settings.label_columns:
        labels = tuple(_named(table, name) for name in settings.label_columns)
    else:
        labels = _label_columns(table, others)
    if clash := sorted({file, split} & set(labels), key=str):
        raise UserError(
            f"{table.path}: the column {table.columns[clash[0] or 0]} cannot be a label as well.",
            NAME_THEM,
        )
    return Columns(
        file,
        labels,
        split,
        len(labels) > 1 and all(_has_flags(table, at) for at in labels),
        len(labels) == 1 and _plain(table.columns[labels[0]]) in PLURAL_NAMES,
    )


def _file_column(table: Table) -> int:
    for names in FILE_NAMES:
        found = [at for at, column in enumerate(table.columns) if _plain(column) in names]
        if len(found) == 1:
            return found[0]
        if found:
            raise _unclear(table, found, "has the names of the files")
    raise UserError(
        f"{table.path}: none of the columns {table.listed()} is recognized as names of files.",
        f"{NAME_THEM} The first row must name the columns.",
    )


def _label_columns(table: Table, others: Sequence[int]) -> tuple[int, ...]:
    known = LABEL_NAMES | PLURAL_NAMES
    found = [at for at in others if _plain(table.columns[at]) in known]
    if len(found) > 1:
        raise _unclear(table, found, "has the labels")
    if found:
        return (found[0],)
    if len(others) == 1 or (len(others) > 1 and all(_has_flags(table, at) for at in others)):
        return tuple(others)
    raise UserError(
        f"{table.path}: none of the columns {table.listed()} is recognized as labels.", NAME_THEM
    )


def _split_column(table: Table, name: str | None, file: int) -> int | None:
    if name == "":
        return None
    if name is not None:
        return _named(table, name)
    found = [
        at
        for at, column in enumerate(table.columns)
        if _plain(column) in SPLIT_NAMES and at != file
    ]
    if len(found) > 1:
        raise _unclear(table, found, "has the splits")
    return found[0] if found else None


def _named(table: Table, name: str) -> int:
    """Return the position of the column of a name. Raises UserError unless there is exactly one."""
    found = [at for at, column in enumerate(table.columns) if column == name]
    if len(found) != 1:
        number = "no column" if not found else counted(len(found), "column")
        raise UserError(f"{table.path} has {number} {name}.", f"It has {table.listed()}.")
    return found[0]


def _has_flags(table: Table, at: int) -> bool:
    return all(
        is_missing(values[at]) or flag_of(values[at]) is not None for _, values in table.rows
    )


def _unclear(table: Table, found: Sequence[int], what: str) -> UserError:
    names = " or ".join(table.columns[at] for at in found)
    return UserError(f"{table.path}: it is unclear whether {names} {what}.", NAME_THEM)


def _plain(name: Any) -> str:
    return re.sub(r"[\s_.-]", "", str(name)).lower()
