"""Open the images of a folder or archive with labels from a table.

    train.csv  train/0a.jpg  test/1b.jpg     rows such as `0a,cat`, with or without folder

With one label per image, the written `.beton` file equals, byte for byte, that of the same images
in a tree of class folders.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from writers.errors import UserError
from writers.labels.columns import Columns, recognize
from writers.labels.file_index import FileIndex
from writers.labels.rows import Table, read_table
from writers.labels.settings import LabelTable
from writers.labels.values import flag_of, is_missing, list_of, text_of
from writers.omissions import OmissionLog
from writers.source import (
    Example,
    Source,
    SplitSettings,
    below_class,
    carve,
    examples_of_many,
    named_examples,
    refuse_unclear_splits,
)
from writers.sources.tree import list_images
from writers.split_names import NO_SPLIT, split_of
from writers.text_encoding import TO_UTF8, has_undecoded_bytes, likely_text
from writers.text_names import counted, normalized, printable

MAX_PROBLEMS = 20  # rows that an error names
SEPARATORS = "|;"  # characters that are rarely part of a class's name
SPLIT_HINT = (
    "Known are train, val, test and names such as validation. Name the column with "
    "--labels-split-column (in a recipe split_column), or pass an empty name for no splits."
)


@dataclass(frozen=True)
class Labeled:
    """Labels of one image, and the row of the table that they come from.

    Attributes:
        labels: class names.
        split: train, val, test or NO_SPLIT.
        row: description of the row for messages.
    """

    labels: tuple[str, ...]
    split: str
    row: str


@dataclass
class _Reading:
    """Content of the rows read so far, from all files of a table."""

    settings: LabelTable
    images: dict[str, Labeled] = field(default_factory=dict)  # by key of the image file
    problems: list[str] = field(default_factory=list)  # the first MAX_PROBLEMS
    num_problems: int = 0  # all
    has_undecoded: bool = False  # a refused row has bytes that are not UTF-8
    # a row has a list, separated labels, or columns of 0 and 1 without exactly one 1
    has_several: bool = False
    flag_names: dict[str, None] = field(default_factory=dict)  # names of columns of 0 and 1

    def refuse(self, row: str, reason: str) -> None:
        """Count a row that cannot be used; keep the first MAX_PROBLEMS for the error."""
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(printable(f"{row}: {reason}"))


def open_labeled(path: Path, table: LabelTable, settings: SplitSettings, name: str) -> Source:
    """Open the images at a path with the labels of a table.

    Args:
        path: folder, uncompressed tar, or zip.
        table: the table, with paths of its files.
        settings: how to draw missing splits.
        name: name of the dataset.

    Raises:
        UserError: rows cannot be used (up to MAX_PROBLEMS are named), columns are unclear, or there
            are no images.
    """
    omitted = OmissionLog()
    files, keys = list_images(path, omitted, _names_below(path, table))
    if not keys:
        raise UserError(f"{path} has no images.", "Give the folder of the images with --source.")
    reading = _Reading(table)
    index = FileIndex(keys)
    for file in table.paths:
        _read_rows(read_table(file), index, reading)
    if reading.problems:
        raise _unusable(reading, table)
    for key in keys:
        if key not in reading.images:
            omitted.add("images that the table of labels does not name", key)
    splits = _splits(reading.images)
    refuse_unclear_splits(splits, [path])
    several = reading.has_several if table.several is None else table.several
    classes, by_split = (_many_labels if several else _one_label)(splits, reading)
    train = by_split.get("train") or by_split.get(NO_SPLIT, [])
    return Source(
        printable(name),
        printable(path.name),
        classes,
        carve(train, by_split.get("val", []), by_split.get("test", []), settings),
        files,
        multi_label=several,
        omissions=omitted.omissions(),
    )


def _read_rows(table: Table, index: FileIndex, reading: _Reading) -> None:
    columns = recognize(table, reading.settings)
    named_split = split_of(table.path.stem)
    if len(reading.settings.files) > 1 and columns.split is None and named_split is None:
        raise UserError(
            f"Of the rows of {table.path} it is unclear whether they are training or test images.",
            "Each of several tables needs a column of splits, or the name train, val or test.",
        )
    if columns.has_flags:
        _check_flags(table, columns)
        for name in (table.columns[at] for at in columns.labels):
            if has_undecoded_bytes(name):
                raise UserError(
                    f"{table.path}, row 1: the class '{likely_text(name)}' is not UTF-8 text.",
                    TO_UTF8,
                )
            reading.flag_names[text_of(name)] = None
    else:
        _refuse_unclear_separator(table, columns, reading.settings)
    where = f"{table.path.name}, " if len(reading.settings.files) > 1 else ""
    for number in table.ragged:
        reading.refuse(
            f"{where}row {number}", f"it has other than {counted(len(table.columns), 'value')}"
        )
    for number, values in table.rows:
        row = f"{where}row {number}"
        try:
            split = _split(values, columns)
            labels = _labels(table, values, columns, reading)
            if is_missing(values[columns.file]):
                raise ValueError("it names no file")
            key = index.find(text_of(values[columns.file]), split or named_split)
        except ValueError as error:
            reading.has_undecoded |= any(_undecoded(value) is not None for value in values)
            reading.refuse(row, str(error))
            continue
        if split is None:
            split = (named_split or NO_SPLIT) if len(reading.settings.files) > 1 else NO_SPLIT
        _add(key, Labeled(labels, split, row), reading)


def _add(key: str, new: Labeled, reading: _Reading) -> None:
    """Add an image. If it is known, add further labels to it if `several` is set.

    Otherwise, or if the split differs or a label is repeated, refuse the row.
    """
    known = reading.images.get(key)
    if known is None:
        reading.images[key] = new
    elif (
        reading.settings.several
        and known.split == new.split
        and set(known.labels).isdisjoint(new.labels)
    ):
        reading.images[key] = Labeled((*known.labels, *new.labels), new.split, known.row)
    else:
        reading.refuse(new.row, f"{key} is already in {known.row}")


def _split(values: Sequence[Any], columns: Columns) -> str | None:
    """Return a row's split, or None without a column of splits. Raises ValueError if unknown."""
    if columns.split is None:
        return None
    if is_missing(values[columns.split]):
        raise ValueError("it has no split")
    text = text_of(values[columns.split])
    split = split_of(text)
    if split is None:
        raise ValueError(f"'{text}' is not a split")
    return split


def _labels(
    table: Table, values: Sequence[Any], columns: Columns, reading: _Reading
) -> tuple[str, ...]:
    """Return a row's distinct labels. Raises ValueError if there are none or they are unclear."""
    settings = reading.settings
    if columns.has_flags:
        if any(is_missing(values[at]) for at in columns.labels):
            raise ValueError("a class has neither 0 nor 1")
        present = tuple(
            text_of(table.columns[at]) for at in columns.labels if flag_of(values[at]) == 1
        )
        reading.has_several = reading.has_several or len(present) != 1
        if settings.several is False and len(present) != 1:
            raise ValueError(f"{counted(len(present), 'class')} have a 1 instead of one")
        return present
    given = [values[at] for at in columns.labels if not is_missing(values[at])]
    if not given:
        raise ValueError("it has no label")
    labels: dict[str, None] = {}
    for value in given:
        if (text := _undecoded(value)) is not None:
            raise ValueError(f"the label '{likely_text(text)}' is not UTF-8 text")
        items = None if settings.separator == "" else list_of(value)
        if items is None and settings.separator:
            items = text_of(value).split(settings.separator)
        if items is not None:
            reading.has_several = True
        for item in [value] if items is None else items:
            if isinstance(item, dict | list | tuple | bytes):
                raise ValueError(f"a label is a {type(item).__name__} instead of a text or number")
            if not is_missing(item):
                labels[text_of(item)] = None
    reading.has_several = reading.has_several or len(columns.labels) > 1
    if settings.several is False and len(labels) != 1:
        raise ValueError(f"it has {counted(len(labels), 'label')} instead of one")
    return tuple(labels)


def _undecoded(value: Any) -> str | None:
    """Return the text of a value, or of a list, that has bytes other than UTF-8; None if none."""
    texts = value if isinstance(value, list) else [value]
    return next((t for t in texts if isinstance(t, str) and has_undecoded_bytes(t)), None)


def _check_flags(table: Table, columns: Columns) -> None:
    """Raise UserError if columns have both 0 and -1, as 0 may then mean difficult or absent."""
    found = {flag_of(values[at]) for _, values in table.rows for at in columns.labels}
    if found >= {0, -1}:
        raise UserError(
            f"{table.path} has 1, 0 and -1 in the columns of its classes; it is unclear whether 0 "
            "or -1 means absent.",
            "Use 1 for present and one other number for absent.",
        )


def _refuse_unclear_separator(table: Table, columns: Columns, settings: LabelTable) -> None:
    """Raise UserError if a text may be one label or several: nobody would notice a wrong guess."""
    if settings.separator is not None or settings.several is False:
        return
    known = f"{SEPARATORS}, " if columns.is_plural else SEPARATORS
    for number, values in table.rows:
        for at in columns.labels:
            text = values[at].strip() if isinstance(values[at], str) else ""
            found = next((mark for mark in known if mark in text), None)
            if found is not None and not text.startswith("["):
                raise UserError(
                    f"{table.path}, row {number}: it is unclear whether '{text[:60]}' is one label "
                    f"or several, separated by '{found}'.",
                    f"Pass --labels-separator '{found}' or --labels-single; in a recipe, set "
                    "`separator` or `several: false` of `labels`.",
                )


def _splits(images: Mapping[str, Labeled]) -> dict[str, dict[str, Labeled]]:
    """Group images by the table's splits.

    If the table has none, group them by split folders if there is a train folder and each image is
    in a split folder.
    """
    splits: dict[str, dict[str, Labeled]] = defaultdict(dict)
    for key, labeled in images.items():
        splits[labeled.split][key] = labeled
    if splits.keys() != {NO_SPLIT}:
        return splits
    in_folders: dict[str, dict[str, Labeled]] = defaultdict(dict)
    for key, labeled in images.items():
        split = next(filter(None, map(split_of, key.split("/")[:-1])), None)
        if split is None:
            return splits
        in_folders[split][key] = labeled
    return in_folders if "train" in in_folders else splits


def _one_label(
    splits: Mapping[str, Mapping[str, Labeled]], reading: _Reading
) -> tuple[list[str], dict[str, list[Example]]]:
    """Return the classes, and examples by split, named as in a tree of class folders."""
    classes = sorted(
        {labeled.labels[0] for images in splits.values() for labeled in images.values()}
    )
    label = {class_name: number for number, class_name in enumerate(classes)}
    by_split = {}
    for split, images in splits.items():
        named = {
            key: (labeled.labels[0], below_class(normalized(key), labeled.labels[0]))
            for key, labeled in images.items()
        }
        for _, twins in _groups(named):
            named |= {key: (named[key][0], normalized(key)) for key in twins}
        by_split[split] = named_examples(named, label)
    return classes, by_split


def _many_labels(
    splits: Mapping[str, Mapping[str, Labeled]], reading: _Reading
) -> tuple[list[str], dict[str, list[Example]]]:
    """Return the classes, and examples by split, named by file.

    Missing splits are drawn by the first class of each image. Raises UserError if no image has a
    label.
    """
    labeled = [labeled for images in splits.values() for labeled in images.values()]
    classes = list(reading.flag_names) or sorted({one for each in labeled for one in each.labels})
    if not classes:
        raise UserError(
            f"No image of {reading.settings.files[0]} has a label.",
            "Check the column of labels: --labels-column (in a recipe, label_columns).",
        )
    label = {class_name: number for number, class_name in enumerate(classes)}
    return classes, {
        split: examples_of_many(
            {key: normalized(key) for key in images},
            {key: one.labels for key, one in images.items()},
            label,
        )
        for split, images in splits.items()
    }


def _groups(names: Mapping[str, Any]) -> Iterator[tuple[Any, list[str]]]:
    """Yield each name that several images have, with the keys of these images."""
    keys: dict[Any, list[str]] = defaultdict(list)
    for key, name in names.items():
        keys[name].append(key)
    return ((name, group) for name, group in keys.items() if len(group) > 1)


def _names_below(path: Path, table: LabelTable) -> set[str]:
    """Return the names of the table's files relative to the folder of the images."""
    folder = path.resolve()
    return {
        file.resolve().relative_to(folder).as_posix()
        for file in table.paths
        if file.resolve().is_relative_to(folder)
    }


def _unusable(reading: _Reading, table: LabelTable) -> UserError:
    more = reading.num_problems - len(reading.problems)
    hint = SPLIT_HINT if any("split" in problem for problem in reading.problems) else ""
    hint = TO_UTF8 if reading.has_undecoded else hint
    return UserError(
        "\n".join(
            [
                f"{counted(reading.num_problems, 'row')} of {' and '.join(table.files)} cannot be "
                "used:",
                *(f"  {problem}" for problem in reading.problems),
                *([f"  and {more:,} more"] if more else []),
            ]
        ),
        hint or "Correct or remove these rows.",
    )
