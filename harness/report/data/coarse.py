"""Models of finer classes on coarser labels (Huh et al. 2016): does teaching finer classes than one asks for help?

Asked on the validation images of a subset with coarser labels, of its own model and of every model of finer classes. A finer
one answers with the coarse class of the highest summed probability, or with that of its likeliest class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.recipe import Recipe
from harness.report.data.collection import Collection
from harness.report.data.rows import ATTACKS, model_axes
from harness.report.render.tables.accuracy import NONE, decimals_for, percent, spread
from harness.report.render.tables.models import model_columns
from harness.report.render.tables.table import Cell, Column, Table, mark_best
from harness.report.stats.intervals import estimate, is_near_chance


@dataclass(frozen=True)
class CoarseRow:
    """One model on the labels of one subset with coarser ones, clean or attacked."""

    arch: str
    subset: str  # of pretraining
    num_classes: int | None  # the model's own
    eps: float
    seed: int
    labels: str  # the subset whose labels these are
    num_labels: (
        int  # of these that the model knows: a model of some classes may know some labels only
    )
    by: str  # sum or max; own: they are the model's own classes
    attack: str  # one of ATTACKS
    num_images: int
    top1: float
    mean_per_class: float
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()


def coarse_rows(found: Collection) -> list[CoarseRow]:
    rows = []
    for result in found.of("evaluate"):
        model = found.model(result)
        num_classes = model.metrics.get("num_classes") if model is not None else None
        for labels, about in (result.metrics.get("coarse") or {}).items():
            rows += [
                CoarseRow(
                    **model_axes(found, result),
                    num_classes=num_classes,
                    labels=labels,
                    num_labels=about["num_labels"],
                    by=by,
                    attack=attack,
                    key=result.key,
                    **{name: scores[name] for name in ("num_images", "top1", "mean_per_class")},
                )
                for attack in ATTACKS
                for by, scores in (about.get(attack) or {}).items()
            ]
    return rows


def coarse_tables(recipe: Recipe, rows: Sequence[CoarseRow]) -> list[Table]:
    """One for each arch with models of finer classes: a line a model but for its seed, a column for each set of labels.

    Models that know only some of the labels chose among fewer of them, and stand in the CSV only.
    """
    most: dict[str, int] = {}
    for row in rows:
        most[row.labels] = max(most.get(row.labels, 0), row.num_labels)
    rows = [row for row in rows if row.num_labels == most[row.labels]]
    tables = []
    for index, arch in enumerate(recipe.archs):
        mine = [row for row in rows if row.arch == arch and row.attack == "clean"]
        if any(row.by != "own" for row in mine):
            title = "Coarser labels: the class of the highest summed probability / of the likeliest fine class"
            tables.append(
                _table(
                    recipe,
                    mine,
                    f"coarse-{index}",
                    f"{arch}. {title}" if len(recipe.archs) > 1 else title,
                )
            )
    return tables


def _table(recipe: Recipe, rows: Sequence[CoarseRow], name: str, title: str) -> Table:
    lines: dict[tuple[str, str, float], list[CoarseRow]] = {}
    for row in rows:
        lines.setdefault((row.subset, row.variant, row.eps), []).append(row)
    labels = {subset.name: 0 for subset in recipe.subsets} | {
        row.labels: row.num_labels for row in rows
    }
    labels = {name: number for name, number in labels.items() if number}
    models = [mine[0] for mine in lines.values()]
    shown = model_columns(models)
    columns = [column for column, _ in shown]
    contents = [[cell_of(model) for model in models] for _, cell_of in shown]
    for subset, number in labels.items():
        columns.append(Column(f"{number} labels", group=subset))
        contents.append(
            mark_best(
                [
                    _cell([row for row in mine if row.labels == subset], len(recipe.seeds))
                    for mine in lines.values()
                ]
            )
        )
    note = (
        "Clean top-1 in percent, best of each column in bold; one number: the labels are the model's own. –: its classes "
        "are no finer, or some labels are not among theirs."
    )
    if len(recipe.seeds) > 1:
        note += " ±: standard deviation over seeds."
    return Table(name, title, tuple(columns), tuple(zip(*contents, strict=True)), note)


def _cell(rows: Sequence[CoarseRow], num_seeds: int) -> Cell:
    """Of one model but for its seed, on one set of labels."""
    first, second = (
        [row for row in rows if row.by in asked] for asked in (("own", "sum"), ("max",))
    )
    if not first:
        return NONE
    decimals = decimals_for(row.num_images for row in rows)
    top1 = estimate(row.top1 for row in first)
    mark = "°" if is_near_chance(top1.mean, first[0].num_labels, first[0].num_images) else ""
    other = estimate(row.top1 for row in second) if second else None
    return Cell(
        percent(top1.mean, decimals) + mark,
        sort=top1.mean,
        detail=f"/ {percent(other.mean, decimals)}" if other else "",
        detail_sort=other.mean if other else None,
        below=spread([top1, *([other] if other else [])], decimals, num_seeds),
    )
