"""Read and write the rows of a board (a static leaderboard) as JSON, to exchange them.

A file from somebody else is untrusted: its size, its fields, and every value are checked before
anything is used. Nothing in it is executed. The pages of the board are named by labels in the
file, without unsafe characters.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic_core
from pydantic import ValidationError

from harness.config.recipe import Recipe
from harness.report.board.row import (
    DIGEST_LENGTH,
    MAX_TEXT,
    BoardRow,
    digest,
    field_names,
    names_path,
    without_paths,
)
from writers.errors import UserError
from writers.regular_file import read_regular
from writers.text_names import printable

FILE_NAME = "rows.json"
SCHEMA: Literal["harness-board-1"] = "harness-board-1"
MAX_BYTES = 128 * 2**20  # largest size of a file
MAX_ROWS = 200_000
MAX_RECIPES = 10_000
MAX_RECIPE_TEXT = 10_000  # largest number of characters in a string of a recipe
MAX_DEPTH = 20  # largest number of nested levels of settings, as in recipe files
FIX = "Ask for a new export, or remove the file from --merge."


@dataclass(frozen=True)
class Export:
    """Rows, and the recipes that they come from, with the settings of `base` and `scales` applied.

    Attributes:
        name: file or recipe that the rows come from, for messages.
        recipes: digest of a recipe -> its settings.
    """

    name: str
    rows: tuple[BoardRow, ...]
    recipes: Mapping[str, Any]


def published_recipe(recipe: Recipe) -> tuple[str, Any]:
    """Return digest and settings of a recipe, without `scale` and without paths of this machine.

    Only settings that the recipe sets are returned.

    An absolute path becomes its last part, which `harness run` looks for below $HARNESS_RAW.
    """
    text = recipe.model_dump_json(exclude_unset=True, exclude={"scale"})
    settings = _portable(pydantic_core.from_json(text))
    return digest(settings), settings


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_portable(name): _portable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return without_paths(value) if isinstance(value, str) else value


def to_json(rows: tuple[BoardRow, ...], recipes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the file's text in pieces. Each row has its own line, so that diffs are readable."""
    names = field_names()
    yield f'{{"schema": "{SCHEMA}",\n"recipes": {{'
    for index, name in enumerate(sorted(recipes)):
        yield f'{"," if index else ""}\n"{name}": {json.dumps(recipes[name], sort_keys=True)}'
    yield '\n},\n"rows": ['
    for index, row in enumerate(rows):
        record = {name: getattr(row, name) for name in names}
        yield f"{',' if index else ''}\n{json.dumps(record, allow_nan=False)}"
    yield "\n]}\n"


def read(path: Path) -> Export:
    """Read an exported file, or the folder of a published board.

    Raises:
        UserError: the file cannot be read, or `parse` refuses its content.
    """
    file = path / FILE_NAME if path.is_dir() else path
    shown = printable(str(path))
    try:
        data = read_regular(file, MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"{shown} cannot be read: {error.strerror}.",
            f"Name a {FILE_NAME} of a published board, or the folder of one.",
        ) from error
    return parse(data, shown)


def parse(data: bytes, name: str) -> Export:
    """Check and read the content of a file.

    Args:
        data: content, at most MAX_BYTES.
        name: name of the file, for messages.

    Raises:
        UserError: the content is not an export, or has a wrong value. The message names the recipe,
            or the row and field, of a wrong value.
    """
    try:
        content = pydantic_core.from_json(data)
    except ValueError as error:
        reason = str(error)[:MAX_TEXT]
        raise UserError(f"{name} is not JSON: {printable(reason)}.", FIX) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(
            f"{name} is not an export of a board with schema {SCHEMA}.",
            f"Name a {FILE_NAME} that `harness report RECIPE --publish DIR` wrote.",
        )
    if unknown := sorted(content.keys() - {"schema", "recipes", "rows"}):
        raise UserError(f"{name}: unknown entry {_quoted(unknown[0])}.", FIX)
    recipes, rows = content.get("recipes"), content.get("rows")
    if not isinstance(recipes, dict) or len(recipes) > MAX_RECIPES:
        raise UserError(f"{name}: recipes must be a mapping of at most {MAX_RECIPES} recipes.", FIX)
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise UserError(f"{name}: rows must be a list of at most {MAX_ROWS:,} rows.", FIX)
    for recipe_digest, recipe in recipes.items():
        if reason := _recipe_problem(recipe_digest, recipe):
            raise UserError(f"{name}: recipe {_quoted(recipe_digest)}: {reason}.", FIX)
    checked = tuple(_row(row, number, name) for number, row in enumerate(rows, start=1))
    used = {row.recipe for row in checked}
    if missing := sorted(used - recipes.keys() - {""}):
        raise UserError(f"{name}: a row refers to recipe {missing[0]}, which is missing.", FIX)
    return Export(name, checked, {key: recipes[key] for key in sorted(used - {""})})


def _row(record: Any, number: int, name: str) -> BoardRow:
    if not isinstance(record, dict):
        raise UserError(f"{name}: row {number} is not a mapping.", FIX)
    try:
        return BoardRow(**record)
    except ValidationError as error:
        # The message does not repeat the value, which may be long or crafted to mislead.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{name}: row {number}: {_quoted(field)}: {printable(first['msg'])[:MAX_TEXT]}.", FIX
        ) from error


def _recipe_problem(recipe_digest: str, recipe: Any) -> str:
    """Describe what is wrong with a recipe; "" if nothing is.

    `base` and `scales` are refused: they would read other files or change the settings, and
    resolved recipes have neither.
    """
    if not isinstance(recipe, dict):
        return "must be a mapping of settings"
    if unknown := sorted(recipe.keys() - Recipe.model_fields.keys()):
        return f"{_quoted(unknown[0])} is not a setting of a resolved recipe"
    if not isinstance(recipe.get("name"), str):
        return "has no name"
    problem = _text_problem(recipe, MAX_DEPTH)
    if problem:
        return problem
    if len(recipe_digest) != DIGEST_LENGTH or digest(recipe) != recipe_digest:
        return "its settings do not have this digest"
    return ""


def _text_problem(value: Any, depth: int, budget: int = MAX_RECIPE_TEXT) -> str:
    if depth == 0:
        return f"settings are nested more than {MAX_DEPTH} levels deep"
    if isinstance(value, dict | list):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        problems = (_text_problem(item, depth - 1, budget) for item in items)
        return next((problem for problem in problems if problem), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is not finite"
    if isinstance(value, str) and len(value) > budget:
        return f"a text has more than {budget:,} characters"
    if isinstance(value, str) and names_path(value):
        return "a text contains a path of a machine"
    return ""


def _quoted(name: object) -> str:
    text = printable(str(name))
    return f"'{text[:60]}{'...' if len(text) > 60 else ''}'"
