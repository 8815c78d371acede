"""Read YAML of bounded size: a file takes seconds, exhausts no memory and ends in no traceback."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from writers import text_encoding
from writers.text_names import counted

MAX_BYTES = 2 * 2**20  # size of the text; the parser takes about 10 s for one MB
TOO_LARGE = f"it has more than {MAX_BYTES // 2**20} MB"
MAX_NODES = 200_000  # number of values, with each alias expanded
MAX_DEPTH = 30  # levels of nesting
MAX_OPEN_BRACKETS = 200  # the parser's time grows with the square of this number
BRACKET = re.compile(r"[\[\]{}]")
MAX_BITS = 1024  # bits of a whole number; Python refuses to print more than about 14,000


class BadYamlError(Exception):
    """The text is not YAML, or exceeds a limit. `line` counts from 1 and is None if unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def read_yaml(path: Path, shown: str | None = None) -> Any:
    """Read a YAML 1.2 file with line numbers (ruamel.yaml's round-trip types).

    Args:
        path: the file, in an encoding that `text_encoding.decode` accepts.
        shown: name of the file in the UserError about its encoding. None means its path.

    Raises:
        OSError: the file cannot be read.
        UserError: it has another encoding.
        BadYamlError: it is not a regular file or not YAML, or it exceeds a limit of this module.
    """
    if path.exists() and not path.is_file():
        raise BadYamlError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadYamlError(TOO_LARGE)
    return parse_yaml(text_encoding.decode(data, shown or path))


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2. Raises BadYamlError."""
    if len(text) > MAX_BYTES:
        raise BadYamlError(TOO_LARGE)
    if _most_open_brackets(text) > MAX_OPEN_BRACKETS:
        raise BadYamlError("it is nested too deeply, or contains itself")
    try:
        yaml = YAML(typ="rt", pure=True)
        yaml.Constructor = _Constructor
        document = yaml.load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = " ".join((error.problem or "is not YAML").split())[:200]
        if problem.startswith("but "):  # the first half of the sentence is in `context`
            problem = f"{' '.join((error.context or '').split())[:200]}, {problem}".lstrip(", ")
        raise BadYamlError(problem, line) from error
    except YAMLError as error:
        raise BadYamlError(" ".join(str(error).split())[:200]) from error
    except RecursionError as error:
        raise BadYamlError("it is nested too deeply, or contains itself") from error
    except Exception as error:  # the parser raises other types for odd values, such as dates
        problem = "it has a value that cannot be read"
        if isinstance(error, ValueError):  # texts of other errors are about the parser's code
            problem += f": {' '.join(str(error).split())[:200]}"
        raise BadYamlError(problem) from error
    waiting: list[tuple[Any, int]] = [(document, 0)]
    num_nodes = 0
    while waiting:
        node, depth = waiting.pop()
        num_nodes += 1
        if depth > MAX_DEPTH:
            raise BadYamlError("it is nested too deeply, or contains itself")
        if num_nodes > MAX_NODES:
            raise BadYamlError(
                f"it has more than {counted(MAX_NODES, 'value')}, with its aliases expanded"
            )
        if isinstance(node, int) and node.bit_length() > MAX_BITS:
            raise BadYamlError(f"it has a number of more than {MAX_BITS:,} bits")
        waiting += [(child, depth + 1) for child in _children(node)]
    return document


class _Constructor(RoundTripConstructor):
    """Refuse a value that contains itself. ruamel.yaml reads null in its place."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node in self.recursive_objects:
            raise ConstructorError(None, None, "the value contains itself", node.start_mark)
        return super().construct_object(node, deep)


def _most_open_brackets(text: str) -> int:
    """Return the largest number of brackets that are open at once, also in strings and comments."""
    opened = most = 0
    for found in BRACKET.finditer(text):
        opened = opened + 1 if found[0] in "[{" else max(0, opened - 1)
        most = max(most, opened)
    return most


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, list | tuple | set):
        yield from node
