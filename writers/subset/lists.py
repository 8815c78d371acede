r"""Read text files of subsets, from the package or the user: one name per line, or CSV.

Some names cannot be written as a line, for example because they have a line break or begin with #.
Such a name is written as a JSON string: "a\nb". In CSV it is quoted.
"""

import csv
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

from writers import names, text_encoding
from writers.errors import UserError
from writers.regular_file import read_regular
from writers.text_names import counted

MAX_LIST_BYTES = 2**29  # size of a list; 10 million names of images take half of it
FOLDER = Path(__file__).parents[1] / "subsets"


def available() -> list[str]:
    """List the subsets of the package."""
    return sorted(path.stem for path in FOLDER.iterdir() if path.suffix in (".txt", ".yaml"))


def file_of(name: str) -> Path:
    """Return the file of a subset of the package. Raises UserError with similar names."""
    for file in (FOLDER / f"{name}.yaml", FOLDER / f"{name}.txt"):
        if file.is_file():
            return file
    raise names.unknown("subset", name, ["all", *available()])


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read a text file with one class per line. Empty lines and `#` comments are skipped.

    Raises:
        UserError: the file cannot be read as UTF-8 text.
    """
    lines = (line.strip() for line in read_text(path).split("\n"))
    return tuple(map(_name_of, (line for line in lines if line and not line.startswith("#"))))


def line_of(name: str) -> str:
    """Return a line for a class list that `read_class_list` reads as this name."""
    is_plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if is_plain and name else json.dumps(name)


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row of a CSV. Empty lines and `#` comments are skipped.

    Raises:
        UserError: the file cannot be read as CSV in UTF-8.
    """
    numbers: list[int] = []

    def lines() -> Iterator[str]:
        num_quotes = 0
        for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
            if num_quotes % 2 == 0 and (not line.strip() or line.startswith("#")):
                continue
            num_quotes += line.count('"')  # an odd number means that a quoted field is open
            numbers.append(number)
            yield f"{line}\n"

    rows = csv.reader(lines(), strict=True)
    try:
        for row in rows:
            yield numbers[rows.line_num - 1], row
    except csv.Error as error:
        raise UserError(f"{path}:{numbers[-1]}: it is not CSV: {error}.") from error


def read_numbers(
    path: Path, check: Callable[[Sequence[str]], None], optional: Collection[str] = ()
) -> tuple[list[str], dict[str, list[float]]]:
    """Read a CSV whose first column is a name and whose other columns are numbers.

    Args:
        path: the file.
        check: called with the header, which is empty if the file is empty. It raises UserError if
            the header is wrong.
        optional: columns whose fields may be empty; an empty field becomes NaN.

    Returns:
        Header, and name -> numbers in the order of the header.

    Raises:
        UserError: a line is not a name with finite numbers; the message has the line.
    """
    reader = read_rows(path)
    _, header = next(reader, (0, []))
    check(header)
    numbers: dict[str, list[float]] = {}
    for line, row in reader:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {counted(len(row), 'column')}, and the header has {len(header)}."
            )
        if row[0] in numbers:
            raise UserError(f"{where}: {header[0]} {row[0]} is listed twice.")
        numbers[row[0]] = [
            math.nan if column in optional and not text.strip() else _number(text, where)
            for column, text in zip(header[1:], row[1:], strict=True)
        ]
    return header, numbers


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: '{text}' is not a number.")
    return value


def csv_field(name: str) -> str:
    """Return a name as a field of a CSV that `read_rows` reads, quoted if necessary."""
    is_plain = name.isprintable() and not set(name) & set(',"#')
    return name if is_plain else '"' + name.replace('"', '""') + '"'


def read_text(path: Path) -> str:
    """Read a list as UTF-8 text. Raises UserError."""
    try:
        data = read_regular(path, MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as text in UTF-8: {error.strerror or error}."
        ) from error
    return text_encoding.decode(data, path)


def _name_of(line: str) -> str:
    """Return the name in a line: the value of a JSON string, or else the line itself."""
    if line.startswith('"'):
        try:
            return str(json.loads(line))
        except ValueError:
            return line
    return line


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return ILSVRC 2012's 1000 classes in label order."""
    return read_class_list(FOLDER / "in1000.txt")
