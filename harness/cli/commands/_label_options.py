"""Options of commands that read labels from a table."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from writers.labels.settings import LabelTable

OPTIONS = (
    click.option(
        "--labels",
        "label_files",
        multiple=True,
        type=PathType(),
        metavar="CSV|JSON|PARQUET",
        help="Table of the images' labels, instead of class folders: a row per image with its file "
        "name and label. May be repeated, such as for train.csv and val.csv.",
    ),
    click.option(
        "--labels-file-column",
        "file_column",
        metavar="NAME",
        help="Column of file names, with or without extension. Default: a column with a common "
        "name, such as image_id.",
    ),
    click.option(
        "--labels-column",
        "label_columns",
        multiple=True,
        metavar="NAME",
        help="Column of labels; may be repeated, for columns of 0 and 1 per class. Default: "
        "columns with a common name, such as label.",
    ),
    click.option(
        "--labels-split-column",
        "split_column",
        metavar="NAME",
        help="Column of splits; an empty name means none. Default: a column with a common name, "
        "such as split.",
    ),
    click.option(
        "--labels-separator",
        "separator",
        metavar="TEXT",
        help="Separator of several labels in one field, such as a space.",
    ),
    click.option(
        "--labels-several/--labels-single",
        "several",
        default=None,
        help="Allow several labels per image, or only one. Default: inferred from the table.",
    ),
)
# Names under which click passes the values of OPTIONS to a command.
PARAMETERS = (
    "label_files",
    "file_column",
    "label_columns",
    "split_column",
    "separator",
    "several",
)


def label_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives `labels`, a LabelTable, or None without --labels."""

    @functools.wraps(command)
    def with_table(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in PARAMETERS}
        return command(*args, labels=_table(**given), **options)

    for option in reversed(OPTIONS):
        with_table = option(with_table)
    return with_table


def _table(*, label_files: tuple[Path, ...], **settings: Any) -> "LabelTable | None":
    """Build the table of labels. Raises UserError for options that have no effect."""
    from writers.errors import UserError

    if not label_files:
        if any(value not in (None, ()) for value in settings.values()):
            raise UserError(
                "The options --labels-... have no effect without a table of labels.",
                "Add --labels FILE.",
            )
        return None
    from pydantic import ValidationError

    from writers.labels.settings import LabelTable

    files = tuple(str(file.expanduser()) for file in label_files)
    try:
        return LabelTable.model_validate({"files": files, **settings})
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error
