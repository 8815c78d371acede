"""Build the tables of a board's pages."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.report.board.replay import command
from harness.report.board.row import BoardRow
from harness.report.board.standings import (
    Board,
    Ranking,
    Repetition,
    Standing,
    Task,
    comparison,
)
from harness.report.data.records import format_eps
from harness.report.render.tables.cells import (
    NONE,
    SCORE_TITLES,
    decimals_for,
    optional_text,
    percent_cell,
)
from harness.report.render.tables.table import Cell, Column, mark_best
from harness.report.stats.intervals import SeedMean
from writers.text_names import percent

_SOURCE_HINT = (
    "top-1 on source classes that all models share; measured: by a recipe of this board; "
    "published: on ImageNet, by the model's authors"
)


@dataclass(frozen=True)
class BoardTable:
    """A table whose lines can be linked to and filtered.

    Attributes:
        name: HTML id of the table.
        lines: cells and HTML attributes of each line: its id, and the values to filter by.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[tuple[Cell, ...], Mapping[str, str]], ...]
    note: str = ""


def ranking_table(board: Board, ranking: Ranking) -> BoardTable:
    """Table of one ranking: scores, cost, versions, digests, and a command to repeat each model."""
    standings = ranking.standings
    columns = [Column("model", numeric=False), Column("rank")]
    cells = [
        [_model_cell(ranking, one) for one in standings],
        [NONE if one.rank is None else Cell(str(one.rank), sort=one.rank) for one in standings],
    ]
    if len(ranking.common) > 1:
        columns.append(Column("mean", hint=f"over {len(ranking.common)} targets"))
        decimals = decimals_for(task.num_test_images for task in ranking.common)
        cells.append(mark_best([_mean_cell(one.mean, decimals) for one in standings]))
    for task in ranking.tasks:
        columns.append(Column(task.name, hint=f"{SCORE_TITLES[task.metric]}, percent"))
        cells.append(_score_cells(standings, task))
    columns.append(Column("models", hint="pretrained models, and runs on all targets"))
    cells.append([_count_cell(one) for one in standings])
    if any(one.first.source_accuracy is not None for one in standings) and ranking.kind != "source":
        columns.append(Column("source", hint=_SOURCE_HINT))
        cells.append([_source_cell(one) for one in standings])
    for column, values in _cost_columns(standings):
        columns.append(column)
        cells.append(values)
    columns += [
        Column("versions", numeric=False),
        Column("digests", numeric=False),
        Column("replay", numeric=False),
    ]
    cells += [
        [_versions_cell(one.rows) for one in standings],
        [_digests_cell(one.first) for one in standings],
        [_replay_cell(board, one.first, of_model=one.rows) for one in standings],
    ]
    attributes = [
        {"id": f"{ranking.name}-{one.model_digest[:8]}", **_facets(one.rows)} for one in standings
    ]
    lines = tuple(zip(zip(*cells, strict=True), attributes, strict=True))
    return BoardTable(ranking.name, ranking.title, tuple(columns), lines, _ranking_note(ranking))


def _ranking_note(ranking: Ranking) -> str:
    parts = []
    if len(ranking.common) > 1:
        names = ", ".join(task.name for task in ranking.common)
        parts.append(f"The mean is over {names}; a model without one of them has no rank.")
    parts.append(
        "Percent. ± is half the width of the 95 % t interval over pretrained models; a score "
        "without ± is that of one model, or of equal runs."
    )
    measured = "evaluation" if ranking.kind == "source" else "transfer"
    parts.append(f"Costs are those of pretraining one model; after +, those of one {measured}.")
    return " ".join(parts)


def runs_table(
    board: Board, ranking: Ranking, tasks: Sequence[Task], rows: Sequence[BoardRow], max_rows: int
) -> BoardTable:
    """Table of every run of one ranking on one target.

    Args:
        board: has the names of the models and the recipes.
        ranking: has the title of the table.
        tasks: the ranking's tasks on the target.
        rows: runs on the target; those of other tasks are left out.
        max_rows: number of runs to show; longer tables slow browsers down.
    """
    digests = {task.digest: task for task in tasks}
    found = [row for row in rows if row.task_digest in digests]
    lines: list[tuple[tuple[Cell, ...], Mapping[str, str]]] = []
    for row in found[:max_rows]:
        decimals = decimals_for([row.num_test_images])
        cells = (
            Cell(board.names[row.model_digest], sort=board.names[row.model_digest]),
            *([Cell(digests[row.task_digest].name)] if len(tasks) > 1 else []),
            Cell(str(row.seed), sort=float(row.seed)),
            Cell(percent(row.score, decimals), sort=row.score),
            _amount(row.transfer_s, 60),
            _amount(row.transfer_energy_wh),
            _amount(row.transfer_memory_bytes, 2**30),
            optional_text(row.gpu or row.cpu),
            Cell(row.started_at[:10], sort=row.started_at),
            optional_text(row.by),
            _versions_cell([row]),
            _digests_cell(row),
            _replay_cell(board, row),
        )
        lines.append((cells, _facets([row])))
    columns = (
        Column("model", numeric=False),
        *([Column("task", numeric=False)] if len(tasks) > 1 else []),
        Column("seed"),
        Column("score", hint="percent, in the target's own metric"),
        Column("minutes", hint="of the stage; of a GPU if it ran on one"),
        Column("Wh", hint="energy of the GPU"),
        Column("GiB", hint="peak memory reserved on the GPU"),
        Column("device", numeric=False),
        Column("date", numeric=False),
        Column("by", numeric=False),
        Column("versions", numeric=False),
        Column("digests", numeric=False),
        Column("replay", numeric=False),
    )
    more = len(found) - max_rows
    note = f"{more:,} further runs are in rows.csv." if more > 0 else ""
    title = f"{ranking.title}: {len(found)} run{'s' if len(found) > 1 else ''}"
    return BoardTable(f"runs-{ranking.name}", title, columns, tuple(lines), note)


def target_table(ranking: Ranking, tasks: Sequence[Task]) -> BoardTable:
    """Table of all models on one target by one method, the best first."""
    measured = [one for one in ranking.standings if one.scores.keys() & {t.digest for t in tasks}]
    first = tasks[0].digest
    measured.sort(key=lambda one: -one.scores[first].mean if first in one.scores else 1.0)
    cells = [[_model_cell(ranking, one, page="../index.html") for one in measured]]
    cells += [_score_cells(measured, task) for task in tasks]
    has_several = any(len(one.rows) > len(one.scores) for one in measured)
    cells += [[_seeds_cell(one, first) for one in measured]] if has_several else []
    lines = zip(
        zip(*cells, strict=True), [dict(_facets(one.rows)) for one in measured], strict=True
    )
    columns = (
        Column("model", numeric=False),
        *(
            Column("score" if len(tasks) == 1 else task.name, hint=SCORE_TITLES[task.metric])
            for task in tasks
        ),
        *([Column("each run", numeric=False, hint="by seed")] if has_several else []),
    )
    return BoardTable(ranking.name, ranking.title, columns, tuple(lines))


def repetitions_table(board: Board) -> BoardTable:
    """Table of runs that were measured more than once, those with unequal scores first."""
    ordered = sorted(board.repetitions, key=lambda one: -one.spread)
    columns = (
        Column("model", numeric=False),
        Column("target", numeric=False),
        Column("seed"),
        Column("scores", numeric=False),
        Column("difference", hint="highest minus lowest score, in points"),
        Column("measured by", numeric=False),
    )
    no_facets: Mapping[str, str] = {}
    lines = tuple((_repetition_cells(board, one), no_facets) for one in ordered)
    return BoardTable("repetitions", "Runs that were measured more than once", columns, lines)


def _repetition_cells(board: Board, one: Repetition) -> tuple[Cell, ...]:
    row = one.rows[0]
    decimals = decimals_for([row.num_test_images])
    who = [
        ", ".join(filter(None, [each.by, each.gpu or each.cpu, each.started_at[:10]]))
        for each in one.rows
    ]
    return (
        Cell(board.names[row.model_digest], sort=board.names[row.model_digest]),
        Cell(row.target, sort=row.target, below=row.method),
        Cell(str(row.seed), sort=float(row.seed)),
        Cell(", ".join(percent(each.score, decimals) for each in one.rows)),
        Cell(f"{100 * one.spread:.{decimals}f}", sort=one.spread, best=one.differs),
        Cell("; ".join(who)),
    )


def _model_cell(ranking: Ranking, standing: Standing, page: str = "") -> Cell:
    row = standing.first
    facts = [f"{row.num_source_classes:,} classes"] if row.num_source_classes else []
    facts += [row.arch] if row.arch and row.arch not in standing.name else []
    facts += [row.training] if row.training else []
    return Cell(
        standing.name,
        sort=standing.name,
        below=", ".join(facts),
        href=f"{page}#{ranking.name}-{standing.model_digest[:8]}",
    )


def _score_cells(standings: Sequence[Standing], task: Task) -> list[Cell]:
    decimals = decimals_for([task.num_test_images])
    return mark_best([_mean_cell(one.scores.get(task.digest), decimals) for one in standings])


def _mean_cell(mean: SeedMean | None, decimals: int) -> Cell:
    if mean is None:
        return NONE
    half = mean.half_width
    below = "" if half is None else f"± {percent(half, decimals)}"
    return Cell(percent(mean.mean, decimals), sort=mean.mean, below=below)


def _seeds_cell(standing: Standing, task: str) -> Cell:
    rows = sorted(
        (row for row in standing.rows if row.task_digest == task), key=lambda row: row.seed
    )
    return Cell(", ".join(percent(row.score, decimals_for([row.num_test_images])) for row in rows))


def _source_cell(standing: Standing) -> Cell:
    """Format the source accuracy and its origin. Published numbers are used if none is measured."""
    for origin in ("measured", "published", ""):
        rows = tuple(row for row in standing.rows if row.source_accuracy_from == origin)
        accuracy = replace(standing, rows=rows).cost("source_accuracy")
        if accuracy is not None:
            return replace(percent_cell(accuracy), below=origin)
    return NONE


def _count_cell(standing: Standing) -> Cell:
    number = standing.num_units
    runs = len(standing.rows)
    return Cell(str(number), sort=float(number), below=f"{runs} run{'s' if runs > 1 else ''}")


def _cost_columns(standings: Sequence[Standing]) -> Iterator[tuple[Column, list[Cell]]]:
    """Yield columns with the cost of pretraining one model, and below it the cost of a transfer."""
    on_gpu = any(row.gpu or row.pretrain_gpu for one in standings for row in one.rows)
    hint = "of pretraining one model; below, of one transfer with its grid"
    yield (
        Column("GPU-minutes" if on_gpu else "CPU minutes", hint=hint),
        [_minutes_cell(one, on_gpu) for one in standings],
    )
    if on_gpu:
        yield (
            Column("energy, Wh", hint=f"{hint}; of the GPU"),
            [_cost_cell(one, "energy_wh", 1) for one in standings],
        )
        yield (
            Column("memory, GiB", hint=f"{hint}; peak reserved on the GPU"),
            [_cost_cell(one, "memory_bytes", 2**30) for one in standings],
        )


def _minutes_cell(standing: Standing, on_gpu: bool) -> Cell:
    """Format GPU-minutes; if no run of the model used a GPU, CPU minutes, which are sorted last."""
    pretrain, transfer = (
        standing.cost(f"{stage}_s", on=device if standing.uses(device) else None)
        for stage, device in (("pretrain", "pretrain_gpu"), ("transfer", "gpu"))
    )
    cell = _two_amounts(
        None if pretrain is None else pretrain / 60, None if transfer is None else transfer / 60
    )
    if on_gpu and not (standing.uses("pretrain_gpu") or standing.uses("gpu")):
        return Cell(f"{cell.text} CPU", below=cell.below, absent=True)
    return cell


def _cost_cell(standing: Standing, name: str, divisor: int) -> Cell:
    pretrain, transfer = standing.cost(f"pretrain_{name}"), standing.cost(f"transfer_{name}")
    return _two_amounts(
        None if pretrain is None else pretrain / divisor,
        None if transfer is None else transfer / divisor,
    )


def _two_amounts(first: float | None, second: float | None) -> Cell:
    below = "" if second is None else f"+ {_format(second)}"
    if first is None:
        return Cell("–", sort=None, below=below, absent=True)
    return Cell(_format(first), sort=first, below=below)


def _amount(value: float | None, divisor: float = 1) -> Cell:
    if value is None:
        return NONE
    return Cell(_format(value / divisor), sort=value)


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _versions_cell(rows: Sequence[BoardRow]) -> Cell:
    """Format the most frequent versions, and the number of other ones."""
    versions = Counter((row.torch, row.harness) for row in rows)
    (torch, harness), _ = max(versions.items(), key=lambda item: (item[1], item[0]))
    more = f" and {len(versions) - 1} more" if len(versions) > 1 else ""
    return Cell(
        f"torch {torch}" if torch else "–",
        sort=torch,
        below=(f"harness {harness}" if harness else "") + more,
    )


def _digests_cell(row: BoardRow) -> Cell:
    """Format the short digest of the model; a click shows all digests and versions."""
    facts = [
        ("model", row.model_digest),
        ("task", row.task_digest),
        ("settings of the method", row.protocol_digest),
        ("weights, sha256", row.weights_sha256),
        ("source subset", row.subset_digest),
        ("test images, sha256", row.test_sha256),
        ("stage", row.key),
        ("recipe", row.recipe),
        ("harness", f"{row.harness} {row.revision}".strip()),
        ("torch", row.torch),
        ("ffcv", row.ffcv),
        ("Python", row.python),
        ("device", row.gpu or row.cpu),
    ]
    text = "\n".join(f"{name}: {value}" for name, value in facts if value)
    return Cell("", sort=row.model_digest, folded=(row.model_digest[:8], text))


def _replay_cell(board: Board, row: BoardRow, of_model: Sequence[BoardRow] = ()) -> Cell:
    """Format the command that repeats a row, or all rows of its model."""
    text = command(
        row,
        board.recipes.get(row.recipe),
        whole_model=bool(of_model),
        targets=sorted({one.target for one in of_model if one.recipe == row.recipe}),
        subsets=board.compared.get(comparison(row, any_seed=bool(of_model)), ()),
        sources=board.sources.get(row.recipe),
    )
    return Cell("", folded=("command", text)) if text else NONE


def _facets(rows: Sequence[BoardRow]) -> dict[str, str]:
    """Return HTML attributes with the values that the page's filters compare."""
    row = rows[0]
    return {
        "data-subset": row.subset,
        "data-arch": row.arch,
        "data-model": row.model,
        "data-eps": format_eps(row.eps),
        "data-by": " | ".join(sorted({one.by for one in rows if one.by})),
    }
