"""Write a board as a static site: pages without external requests, CSV, Parquet, and JSON to merge.

Equal rows give equal bytes. `rows.json` is the board's content; everything else is made from it.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.board import exported
from harness.report.board.merge import Merged, merge
from harness.report.board.pages import Pages
from harness.report.board.replay import recipe_file
from harness.report.board.row import BoardRow
from harness.report.board.standings import Board, Ranking, Standing, Task, board
from harness.report.data.flat import to_parquet
from harness.report.render.tables.table import to_csv
from harness.report.stats.intervals import SeedMean
from harness.system.atomic_write import open_atomically
from writers.errors import UserError

PAGES = "index.html", "protocol.html"


@dataclass(frozen=True)
class LeaderboardRow:
    """One score of a ranking. `target` is "" for the mean over the ranking's common targets."""

    ranking: str
    protocol_digest: str
    model: str
    model_digest: str
    rank: int | None
    target: str
    task_digest: str
    metric: str
    mean: float
    half_width_95: float | None
    sd: float | None
    num_models: int


@dataclass(frozen=True)
class Published:
    """Summary of a site that was written.

    Attributes:
        page: path of the first page.
        num_rows: rows of the whole board.
        num_added: rows that the board did not have before.
        num_duplicates: rows that were dropped as copies of other rows.
        num_differing: runs that were measured more than once with unequal scores.
        has_parquet: True if `rows.parquet` was written.
    """

    page: Path
    num_rows: int
    num_added: int
    num_duplicates: int
    num_differing: int
    has_parquet: bool


def publish(folder: Path, new: Sequence[exported.Export]) -> Published:
    """Merge rows into the board of a folder, and write its site.

    Args:
        folder: a new or empty folder, or the folder of a board.
        new: rows to add.

    Raises:
        UserError: the folder has other files or cannot be written, its board is damaged, rows
            contradict each other, or there are no rows.
    """
    before = _existing(folder)
    merged = merge([*before, *new])
    if not merged.rows:
        raise UserError(
            "There is nothing to publish: no transfer or evaluation is done.",
            "Run the recipe first: harness run RECIPE",
        )
    content = board(merged)
    try:
        names = []
        for name, parts in _files(content, merged):
            names.append(name)
            with open_atomically(folder / name) as file:
                file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
        _remove_old(folder, names)
    except OSError as error:
        raise UserError(
            f"The board cannot be written to {folder}: {error.strerror}.",
            "Choose another folder: --publish DIR",
        ) from error
    num_before = sum(len(export.rows) for export in before)
    return Published(
        folder / PAGES[0],
        len(merged.rows),
        len(merged.rows) - num_before,
        merged.num_duplicates,
        sum(one.differs for one in content.repetitions),
        "rows.parquet" in names,
    )


def _existing(folder: Path) -> list[exported.Export]:
    """Read the board of a folder; an empty list if the folder is new or empty.

    Raises:
        UserError: the folder has files of something else, its board is damaged, or one of its
            folders is a symbolic link.
    """
    for name in ("targets", "recipes"):
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name} is a link to another folder.", "Remove the link, and try again."
            )
    if (folder / exported.FILE_NAME).exists():
        return [exported.read(folder)]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty, and it is not a board.", "Choose a new folder: --publish DIR"
        )
    return []


def _remove_old(folder: Path, names: Sequence[str]) -> None:
    """Remove pages, recipes and a Parquet file that the board no longer has."""
    for pattern in ("targets/*.html", "recipes/*.json", "rows.parquet"):
        for file in folder.glob(pattern):
            if file.relative_to(folder).as_posix() not in names:
                file.unlink()


def _files(content: Board, merged: Merged) -> Iterator[tuple[str, Iterable[str | bytes]]]:
    """Iterate over names and contents of files; the rows are first: all others follow from them."""
    yield exported.FILE_NAME, exported.to_json(merged.rows, merged.recipes)
    yield "rows.csv", to_csv(BoardRow, content.rows)
    has_parquet = importlib.util.find_spec("pyarrow") is not None
    if has_parquet:
        yield "rows.parquet", [to_parquet(BoardRow, content.rows)]
    yield "leaderboard.csv", to_csv(LeaderboardRow, leaderboard_rows(content))
    for digest, recipe in merged.recipes.items():
        text = json.dumps(recipe, indent=1, sort_keys=True)
        yield f"recipes/{recipe_file(digest, recipe)}", [f"{text}\n"]
    pages = Pages(content, has_parquet)
    yield PAGES[1], [pages.protocol()]
    for target in content.targets:
        yield f"targets/{target.page}.html", [pages.target(target)]
    yield PAGES[0], [pages.index()]


def leaderboard_rows(content: Board) -> Iterator[LeaderboardRow]:
    """Iterate over the numbers of all rankings: each model's mean, then its targets."""
    for ranking in content.rankings:
        for one in ranking.standings:
            if one.mean is not None:
                yield _leaderboard_row(ranking, one, None, one.mean)
            for task in ranking.tasks:
                if (mean := one.scores.get(task.digest)) is not None:
                    yield _leaderboard_row(ranking, one, task, mean)


def _leaderboard_row(
    ranking: Ranking, standing: Standing, task: Task | None, mean: SeedMean
) -> LeaderboardRow:
    return LeaderboardRow(
        ranking=ranking.title,
        protocol_digest=ranking.protocol_digest,
        model=standing.name,
        model_digest=standing.model_digest,
        rank=standing.rank,
        target=task.name if task else "",
        task_digest=task.digest if task else "",
        metric=task.metric if task else "",
        mean=mean.mean,
        half_width_95=mean.half_width,
        sd=mean.sd,
        num_models=mean.num_seeds,
    )
