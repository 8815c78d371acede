"""Build tables on source classes: accuracy, accuracy on coarser labels, and classes left out."""

from collections.abc import Collection, Sequence

from harness.config.recipe import Recipe
from harness.report.data.collection import PlannedModel
from harness.report.data.records import AccuracyRow, ClassRow, CoarseRow, format_eps
from harness.report.data.rows import COMMON_VIEWS, views_are_equal
from harness.report.render.tables.cells import (
    CHANCE_NOTE,
    MIN_TOP5,
    NONE,
    decimals_for,
    model_columns,
    number,
    percent_cell,
    sized_cell,
    spread,
    text,
    variant_cell,
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
from writers.text_names import percent

VIEW_TITLES = {
    "common_unmasked": "Common classes, unmasked: any class of the model may be predicted",
    "common_masked": "Common classes, masked: only common classes may be predicted",
    "own": "Each model on all of its own classes",
}
_NOT_RUN = Cell("not run", absent=True)


def accuracy_tables(
    recipe: Recipe, rows: Sequence[AccuracyRow], planned: Collection[PlannedModel]
) -> list[Table]:
    """Build a table per arch and view: a line per subset and variant, columns per eps.

    If all models have the same classes, the views are equal, and there is one table per arch. If
    the models with the common classes have no others, masking changes nothing, and there is one
    table of them.

    Args:
        recipe: gives the order of lines and columns.
        rows: accuracies of all models.
        planned: models that the recipe evaluates. If one of these has no result, its cell reads
            "not run". Other combinations are not part of the recipe.
    """
    tables = []
    titles = VIEW_TITLES
    if views_are_equal(rows):
        is_single = len({(row.arch, row.subset, row.variant, row.eps) for row in rows}) == 1
        of_models = "of the model" if is_single else "(all models have the same)"
        titles = {"common_masked": f"All classes {of_models}"}
    elif views_are_equal(rows, COMMON_VIEWS):
        titles = {"common_masked": "Common classes (these models have no others)"} | {
            "own": VIEW_TITLES["own"]
        }
    for index, arch in enumerate(recipe.archs):
        of_arch = [row for row in rows if row.arch == arch]
        evaluated = {row.subset for row in of_arch}
        for view, title in titles.items():
            of_view = [row for row in of_arch if row.view == view]
            if of_view:
                tables.append(
                    _accuracy_table(
                        recipe,
                        of_view,
                        f"accuracy-{index}-{view}",
                        f"{arch}. {title}" if len(recipe.archs) > 1 else title,
                        planned,
                        excluded=evaluated - {row.subset for row in of_view},
                    )
                )
    return tables


def _accuracy_table(
    recipe: Recipe,
    rows: Sequence[AccuracyRow],
    name: str,
    title: str,
    planned: Collection[PlannedModel],
    excluded: Collection[str],
) -> Table:
    """Build one table. `excluded`: subsets without a line, because they lack some classes."""
    arch = rows[0].arch
    models = {(row.subset, row.variant, row.eps) for row in rows} | {
        (model.subset, model.variant, model.eps) for model in planned if model.arch == arch
    }
    lines = [
        (subset.name, variant)
        for subset in recipe.subsets
        for variant in recipe.variants or ("",)
        if subset.name not in excluded
        and any((subset.name, variant, eps) in models for eps in recipe.eps)
    ]
    sizes = {row.subset: row.num_classes for row in rows if row.num_classes}
    columns = [Column("training classes", numeric=False)]
    contents = [[sized_cell(subset, sizes.get(subset)) for subset, _ in lines]]
    if len(recipe.variants) > 1:
        columns.append(Column("variant", numeric=False))
        same = {(row.subset, row.variant): row.same_variants for row in rows}
        contents.append([variant_cell(line[1], same.get(line, ())) for line in lines])
    is_attacked = any(recipe.eps) or any(row.attack == "adversarial" for row in rows)
    for eps in recipe.eps:
        for attack in ("clean", "adversarial") if is_attacked else ("clean",):
            label, group = _attack_label(rows, eps, attack), f"eps {format_eps(eps)}"
            if recipe.eps == (0.0,) and not is_attacked:
                label, group = "top-1 (top-5)" if _has_top5(rows) else "top-1", ""
            columns.append(Column(label, group=group))
            cells = []
            for subset, variant in lines:
                of_model = [
                    row
                    for row in rows
                    if (row.subset, row.variant, row.eps) == (subset, variant, eps)
                ]
                is_part = (subset, variant, eps) in models
                cells.append(
                    _accuracy_cell(of_model, attack, len(recipe.seeds)) if is_part else NONE
                )
            contents.append(mark_best(cells))
    is_incomplete = any((*line, eps) not in models for line in lines for eps in recipe.eps)
    note = _accuracy_note(recipe, rows, is_attacked, is_incomplete, excluded)
    note += _chance_note(contents)
    return Table(name, title, tuple(columns), tuple(zip(*contents, strict=True)), note)


def _attack_label(rows: Sequence[AccuracyRow], eps: float, attack: str) -> str:
    """Return `clean`, `adversarial`, or e.g. `adversarial at 0.5` if its eps is not the model's."""
    radii = sorted(
        {row.attack_eps for row in rows if row.eps == eps and row.attack_eps is not None}
    )
    differs = attack == "adversarial" and radii and radii != [eps]
    return f"{attack} at {', '.join(map(format_eps, radii))}" if differs else attack


def _accuracy_note(
    recipe: Recipe,
    rows: Sequence[AccuracyRow],
    is_attacked: bool,
    is_incomplete: bool,
    excluded: Collection[str],
) -> str:
    note = "Top-1 (top-5) in percent" if _has_top5(rows) else "Top-1 in percent"
    note += (
        ", best of each column in bold."
        if len({(row.subset, row.variant) for row in rows}) > 1
        else "."
    )
    if is_attacked:
        attack = recipe.evaluate.attack
        at_eps = "at the model's own eps"
        if any(row.attack_eps not in (None, row.eps) for row in rows):
            at_eps += ", or at the one in the heading"
        note += f" Adversarial: PGD-{attack.steps}, {attack.norm.capitalize()}, {at_eps}."
        note += _attacked_logits_note(rows)
    clean, attacked = (
        {row.key for row in rows if row.attack == attack} for attack in ("clean", "adversarial")
    )
    is_gap = is_attacked and bool(clean - attacked)
    if dashes := [*["not attacked"] * is_gap, *["not part of the recipe"] * is_incomplete]:
        note += f" –: {' or '.join(dashes)}."
    if excluded:
        names = [subset.name for subset in recipe.subsets if subset.name in excluded]
        note += f" Without {', '.join(names)}: not trained on all of these classes."
    if len(recipe.seeds) > 1:
        note += " sd: standard deviation over seeds."
    return note


def _attacked_logits_note(rows: Sequence[AccuracyRow]) -> str:
    """State from which logits the attacks compute their loss, if masks leave some out."""
    kinds = {row.attacked_logits for row in rows if row.view == "common_masked"} - {""}
    if all(row.num_answers == row.num_classes for row in rows):
        return ""
    if kinds == {"scored"}:
        return " The attack is on the masked logits, those that are scored."
    if kinds == {"all"}:
        return " The attack is on all logits, so masked accuracies look more robust than they are."
    return " Some attacks are on the masked logits, others on all logits." if kinds else ""


def _accuracy_cell(of_model: Sequence[AccuracyRow], attack: str, num_seeds: int) -> Cell:
    rows = [row for row in of_model if row.attack == attack]
    if not rows:
        return NONE if of_model else _NOT_RUN
    top1, top5 = seed_mean(row.top1 for row in rows), seed_mean(row.top5 for row in rows)
    decimals = decimals_for(row.num_images for row in rows)
    mark = "°" if is_near_chance(top1.mean, rows[0].num_answers, rows[0].num_images) else ""
    if not _has_top5(rows):
        below = spread((top1,), decimals, num_seeds)
        return Cell(percent(top1.mean, decimals) + mark, sort=top1.mean, below=below)
    return Cell(
        percent(top1.mean, decimals) + mark,
        sort=top1.mean,
        detail=f"({percent(top5.mean, decimals)})",
        detail_sort=top5.mean,
        below=spread((top1, top5), decimals, num_seeds),
    )


def _has_top5(rows: Sequence[AccuracyRow]) -> bool:
    """Return True unless top-5 includes all classes that can be predicted, so that it is 100 %."""
    return any(row.num_answers is None or row.num_answers >= MIN_TOP5 for row in rows)


def coarse_tables(recipe: Recipe, rows: Sequence[CoarseRow]) -> list[Table]:
    """Build a table per arch with models of finer classes: lines are models, columns are labels.

    Models that can predict only some of the labels choose among fewer labels, so they are in the
    CSV only.
    """
    num_labels: dict[str, int] = {}
    for row in rows:
        num_labels[row.labels] = max(num_labels.get(row.labels, 0), row.num_labels)
    rows = [row for row in rows if row.num_labels == num_labels[row.labels]]
    title = "Coarser labels: by the highest summed probability (by the most likely fine class)"
    tables = []
    for index, arch in enumerate(recipe.archs):
        of_arch = [row for row in rows if row.arch == arch and row.attack == "clean"]
        if any(row.by != "own" for row in of_arch):
            prefix = f"{arch}. " if len(recipe.archs) > 1 else ""
            tables.append(_coarse_table(recipe, of_arch, f"coarse-{index}", prefix + title))
    return tables


def _coarse_table(recipe: Recipe, rows: Sequence[CoarseRow], name: str, title: str) -> Table:
    models: dict[tuple[str, str, float], list[CoarseRow]] = {}
    for row in rows:
        models.setdefault((row.subset, row.variant, row.eps), []).append(row)
    num_labels = {row.labels: row.num_labels for row in rows}
    first_rows = [of_model[0] for of_model in models.values()]
    described = model_columns(first_rows)
    columns = [column for column, _ in described]
    contents = [[cell_of(row) for row in first_rows] for _, cell_of in described]
    for subset in recipe.subsets:
        if subset.name in num_labels:
            columns.append(Column(f"{num_labels[subset.name]} labels", group=subset.name))
            cells = [
                _coarse_cell(
                    [row for row in of_model if row.labels == subset.name], len(recipe.seeds)
                )
                for of_model in models.values()
            ]
            contents.append(mark_best(cells))
    note = (
        "Clean top-1 in percent, best of each column in bold. One number: the labels are the "
        "model's own classes. –: its classes are not finer, or do not cover all labels."
    )
    if len(recipe.seeds) > 1:
        note += " sd: standard deviation over seeds."
    note += _chance_note(contents)
    return Table(name, title, tuple(columns), tuple(zip(*contents, strict=True)), note)


def _chance_note(contents: Sequence[Sequence[Cell]]) -> str:
    """Explain the mark of accuracies at chance; "" if no cell has it."""
    is_marked = any(cell.text.endswith("°") for column in contents for cell in column)
    return f" {CHANCE_NOTE}" if is_marked else ""


def _coarse_cell(rows: Sequence[CoarseRow], num_seeds: int) -> Cell:
    """Format the cell of one model on one set of labels."""
    by_sum = [row for row in rows if row.by in ("own", "sum")]
    by_max = [row for row in rows if row.by == "max"]
    if not by_sum:
        return NONE
    decimals = decimals_for(row.num_images for row in rows)
    means = [seed_mean(row.top1 for row in group) for group in (by_sum, by_max) if group]
    first = by_sum[0]
    mark = "°" if is_near_chance(means[0].mean, first.num_labels, first.num_images) else ""
    return Cell(
        percent(means[0].mean, decimals) + mark,
        sort=means[0].mean,
        detail=f"({percent(means[1].mean, decimals)})" if by_max else "",
        detail_sort=means[1].mean if by_max else None,
        below=spread(means, decimals, num_seeds),
    )


def class_table(rows: Sequence[ClassRow], subsets: Sequence[str]) -> Table:
    """List classes that a subset leaves out, hardest first, with a column per such subset."""
    removed = [row for row in rows if row.removed_by]
    removing = [name for name in subsets if any(name in row.removed_by for row in removed)]
    columns: list[ColumnOf[ClassRow]] = [
        (Column("class", numeric=False), lambda row: text(row.name)),
        (Column("rank", hint="1 is the hardest"), lambda row: number(row.rank)),
        (
            Column("reference accuracy", hint="percent of the class's images"),
            lambda row: percent_cell(row.accuracy),
        ),
        (Column("images"), lambda row: number(row.num_images)),
        *(_removed_column(name) for name in removing),
    ]
    return table_of("classes", "Classes left out by at least one subset", removed, columns)


def _removed_column(subset: str) -> ColumnOf[ClassRow]:
    return (
        Column(subset, group="left out of", numeric=False),
        lambda row: (
            Cell("left out", sort="0")
            if subset in row.removed_by
            else Cell("kept", sort="1", absent=True)
        ),
    )
