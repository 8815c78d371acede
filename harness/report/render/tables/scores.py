"""Build tables on cheap scores, such as kNN: predictive power, values, and times in the top."""

from collections.abc import Sequence

from harness.config.recipe import Recipe, ShortlistSettings
from harness.report.data.records import KNN, ModelId, ScoreRow
from harness.report.render.tables.cells import (
    CHANCE_NOTE,
    NONE,
    decimal,
    model_columns,
    number,
    plain_or_percent,
    text,
)
from harness.report.render.tables.table import (
    Cell,
    Column,
    ColumnOf,
    Table,
    mark_best,
    table_of,
)
from harness.report.stats.intervals import is_near_chance, seed_mean
from harness.report.stats.leaderboard import TOP, TopCount, model_names
from harness.report.stats.predictors import PredictorFit
from harness.report.text.phrases import bounded

_MAX_WIDTH = 12  # largest number of scores in a line; more do not fit into a page
_MAX_MODEL_COLUMNS = 6


def predictor_table(rows: Sequence[PredictorFit], shortlist: ShortlistSettings | None) -> Table:
    """How well each cheap score ranks the models, one line per predictor and method.

    If `shortlist` selected the models, the note says so.
    """
    counts = sorted({row.k for row in rows})
    k = str(counts[0]) if len(counts) == 1 else "k"
    columns: list[ColumnOf[PredictorFit]] = [
        (Column("predictor", numeric=False), lambda row: text(row.predictor)),
        (Column("of", numeric=False), lambda row: text(row.method)),
        (
            Column(
                "weighted Kendall", hint="mean over targets; ± half a 95 % t interval over them"
            ),
            lambda row: decimal(
                row.weighted_kendall,
                "" if row.half_width_95 is None else f"± {bounded(row.half_width_95, 2)}",
            ),
        ),
        (Column("Pearson"), lambda row: decimal(row.pearson)),
        (Column("Spearman"), lambda row: decimal(row.spearman)),
        (
            Column(
                "given size",
                hint="Pearson given the logarithm of the number of parameters",
            ),
            lambda row: NONE if row.partial_given_size is None else decimal(row.partial_given_size),
        ),
        (
            Column(
                "without a family",
                hint="lowest weighted Kendall if one family of architectures is left out",
            ),
            lambda row: (
                NONE if row.lowest_without_family is None else decimal(row.lowest_without_family)
            ),
        ),
        (
            Column(
                f"recall@{k}",
                hint=f"fraction of the {k} best models among the {k} best by the predictor",
            ),
            lambda row: decimal(row.recall_at_k),
        ),
        (
            Column(
                f"rel@{k}",
                hint=f"best accuracy among the {k} best by the predictor, over the best of all",
            ),
            lambda row: decimal(row.relative_accuracy_at_k),
        ),
        *([] if len(counts) == 1 else [(Column("k"), lambda row: number(row.k))]),
        (Column("targets"), lambda row: number(row.num_targets)),
        (Column("models"), lambda row: number(row.num_models)),
    ]
    note = ""
    if shortlist is not None:
        note = (
            f"{', '.join(shortlist.methods)}: among the {shortlist.best} models that "
            f"{shortlist.by} had selected."
        )
    return table_of("predictors", "Cheap scores as predictors", rows, columns, note)


def score_table(recipe: Recipe, rows: Sequence[ScoreRow]) -> Table:
    """Build a table with a line per model, and a column per target and score.

    If there are few models and many scores, lines and columns are exchanged. Versions of a score,
    such as knn_k5, are in the CSV only.
    """
    names = {row.name for row in rows}
    rows = [row for row in rows if not any(row.name.startswith(f"{name}_") for name in names)]
    places = list(dict.fromkeys((row.target, row.name) for row in rows))
    models: dict[ModelId, dict[tuple[str, str], list[ScoreRow]]] = {}
    for row in rows:
        models.setdefault(row.model_id, {}).setdefault((row.target, row.name), []).append(row)
    first_rows = [next(iter(cells.values()))[0] for cells in models.values()]
    described = model_columns(first_rows)
    columns = (
        *(column for column, _ in described),
        *(Column(name, group=target) for target, name in places),
    )
    scored = [
        mark_best(
            [
                _value_cell(cells[place], len(recipe.seeds)) if place in cells else NONE
                for cells in models.values()
            ]
        )
        for place in places
    ]
    model_cells = [[cell_of(row) for row in first_rows] for _, cell_of in described]
    best = ", best of each column in bold" if len(models) > 1 else ""
    note = f"On the train split of the target; higher is better{best}."
    if KNN in {name for _, name in places}:
        note += " knn: percent of images whose nearest neighbor has the same class."
    if any("°" in cell.text for column in scored for cell in column):
        note += f" {CHANCE_NOTE}"
    if any(place not in cells for cells in models.values() for place in places):
        note += " –: not computed."
    if len(recipe.seeds) > 1:
        note += " sd: standard deviation over seeds."
    if len(places) > _MAX_WIDTH and len(models) <= _MAX_MODEL_COLUMNS:
        named = model_names(rows)
        columns = (
            Column("target", numeric=False),
            Column("score", numeric=False),
            *(Column(named[model]) for model in models),
        )
        lines = tuple(
            (Cell(target, sort=target), Cell(name, sort=name), *cells)
            for (target, name), cells in zip(places, scored, strict=True)
        )
        note = note.replace("of each column", "of each line")
    else:
        lines = tuple(zip(*model_cells, *scored, strict=True))
    return Table("scores", "Each model's scores", columns, lines, note)


def _value_cell(rows: Sequence[ScoreRow], num_seeds: int) -> Cell:
    first, mean = rows[0], seed_mean(row.value for row in rows)
    is_accuracy = first.name.startswith(KNN)
    parts = []
    if mean.sd is not None:
        sd = bounded(100 * mean.sd, 1) if is_accuracy else bounded(mean.sd, 3)
        parts.append(f"sd {sd}")
    if first.subset and len(rows) < num_seeds:  # loaded models have no seed
        parts.append(f"{len(rows):,} of {num_seeds:,} seeds")
    is_low = is_accuracy and is_near_chance(mean.mean, first.num_answers, first.num_images or 0)
    shown = plain_or_percent(mean.mean, is_accuracy) + "°" * is_low
    return Cell(shown, sort=mean.mean, below=", ".join(parts))


def top_table(rows: Sequence[TopCount]) -> Table:
    """Models by the number of targets on which a score puts them among the best."""
    columns: list[ColumnOf[TopCount]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (
            Column(f"in top {TOP}", hint="targets on which the model is among the best"),
            lambda row: number(row.times_in_top),
        ),
        (Column("targets"), lambda row: number(row.num_targets)),
    ]
    score = rows[0].score if rows else ""
    note = "Models that tie for the last place all count."
    return table_of("top-counts", f"Times among the {TOP} best by {score}", rows, columns, note)
