"""Rows to tables: the results in percent, averaged over seeds, the best of each column marked."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from harness.config.recipe import Recipe
from harness.report.data.collection import Planned
from harness.report.data.rows import AccuracyRow, ClassRow, TransferRow, shown_eps
from harness.report.render.tables.table import Cell, Column, Table, mark_best
from harness.report.stats.intervals import Estimate, estimate, is_near_chance

VIEW_TITLES = {
    "common_unmasked": "Common classes, unmasked: any class the model knows may be answered",
    "common_masked": "Common classes, masked: only common classes may be answered",
    "own": "Each model on all of its own classes",
}
SCORE_TITLES = {
    "top1": "top-1",
    "mean_per_class": "mean per class",
    "top5": "top-5",
    "map11": "11-point mAP",
}
_NOT_RUN = Cell("not run", absent=True)
NONE = Cell("–", absent=True)


def accuracy_tables(
    recipe: Recipe, rows: Sequence[AccuracyRow], planned: Collection[Planned]
) -> list[Table]:
    """Table 1 of the poster, once for each arch and view: a line for each subset and variant, columns for each eps.

    planned: what the recipe evaluates, so that what it does not ask for is told from what has not run.
    """
    tables = []
    for index, arch in enumerate(recipe.archs):
        of_arch = [row for row in rows if row.arch == arch]
        evaluated = {row.subset for row in of_arch}
        for view, title in VIEW_TITLES.items():
            mine = [row for row in of_arch if row.view == view]
            if mine:
                prefix = f"{arch}. " if len(recipe.archs) > 1 else ""
                tables.append(
                    _accuracy_table(
                        recipe,
                        mine,
                        f"accuracy-{index}-{view}",
                        prefix + title,
                        planned,
                        strangers=evaluated - {row.subset for row in mine},
                    )
                )
    return tables


def _accuracy_table(
    recipe: Recipe,
    rows: Sequence[AccuracyRow],
    name: str,
    title: str,
    planned: Collection[Planned],
    strangers: Collection[str],
) -> Table:
    """strangers: subsets that were evaluated and do not have the classes of this view."""
    arch, models = rows[0].arch, {(row.subset, row.variant, row.eps) for row in rows}
    models |= {
        (subset, variant, eps) for of_arch, subset, variant, eps in planned if of_arch == arch
    }
    lines = [
        (subset.name, variant)
        for subset in recipe.subsets
        for variant in recipe.variants or ("",)
        if subset.name not in strangers
        and any((subset.name, variant, eps) in models for eps in recipe.eps)
    ]
    sizes = {row.subset: row.num_classes for row in rows if row.num_classes}
    columns = [Column("training classes", numeric=False)]
    contents = [
        [
            Cell(subset, sort=_or_none(sizes.get(subset)), detail=_count(sizes.get(subset)))
            for subset, _ in lines
        ]
    ]
    if len(recipe.variants) > 1:
        columns.append(Column("variant", numeric=False))
        same = {(row.subset, row.variant): row.same_variants for row in rows}
        contents.append([variant_cell(line[1], same.get(line, ())) for line in lines])
    is_attacked = any(recipe.eps) or any(row.attack == "adversarial" for row in rows)
    for eps in recipe.eps:
        for attack in ("clean", "adversarial") if is_attacked else ("clean",):
            radii = sorted(
                {row.attack_eps for row in rows if row.eps == eps and row.attack_eps is not None}
            )
            foreign = attack == "adversarial" and radii and radii != [eps]
            columns.append(
                Column(
                    attack + (f" at {', '.join(map(shown_eps, radii))}" if foreign else ""),
                    group=f"eps {shown_eps(eps)}",
                )
            )
            contents.append(
                mark_best(
                    [
                        _accuracy_cell(
                            [
                                row
                                for row in rows
                                if (row.subset, row.variant, row.eps) == (*line, eps)
                            ],
                            attack,
                            len(recipe.seeds),
                        )
                        if (*line, eps) in models
                        else NONE
                        for line in lines
                    ]
                )
            )
    note = "Top-1 / top-5 in percent, best of each column in bold."
    used = recipe.evaluate.attack
    note += (
        f" Adversarial: PGD-{used.steps}, {used.norm.capitalize()}, at the model's own eps."
        if is_attacked
        else ""
    )
    left_out = any((*line, eps) not in models for line in lines for eps in recipe.eps)
    if dashes := [*["not attacked"] * is_attacked, *["not part of the recipe"] * left_out]:
        note += f" –: {' or '.join(dashes)}."
    if any(row.attack_eps not in (None, row.eps) for row in rows):
        note = note.replace("model's own eps", "model's own eps, or at the one the heading names")
    if strangers:
        apart = [subset.name for subset in recipe.subsets if subset.name in strangers]
        note += f" Without {', '.join(apart)}: not all of these classes are among theirs."
    if len(recipe.seeds) > 1:
        note += " ±: standard deviation over seeds."
    return Table(name, title, tuple(columns), tuple(zip(*contents, strict=True)), note)


def _accuracy_cell(of_model: Sequence[AccuracyRow], attack: str, num_seeds: int) -> Cell:
    rows = [row for row in of_model if row.attack == attack]
    if not rows:
        return NONE if of_model else _NOT_RUN
    top1, top5 = estimate(row.top1 for row in rows), estimate(row.top5 for row in rows)
    decimals = decimals_for(row.num_images for row in rows)
    mark = "°" if is_near_chance(top1.mean, rows[0].num_answers, rows[0].num_images) else ""
    return Cell(
        percent(top1.mean, decimals) + mark,
        sort=top1.mean,
        detail=f"/ {percent(top5.mean, decimals)}",
        detail_sort=top5.mean,
        below=spread((top1, top5), decimals, num_seeds),
    )


def transfer_table(recipe: Recipe, rows: Sequence[TransferRow]) -> Table:
    """A line for each model but for its seed, target, method and size of the target; its own metric carries the marks."""
    fields = ["top1", "mean_per_class", "top5"] + ["map11"] * any(
        row.map11 is not None for row in rows
    )
    shown = _shown_axes(rows)
    columns = (
        *(column for column, _ in shown),
        *(Column(SCORE_TITLES[field]) for field in fields),
        Column("chance", hint="percent, of the target's classes"),
        Column("lr", hint="the chosen one of each seed"),
        Column("tried", hint="configurations tried for each model"),
        Column("chosen on", numeric=False),
        Column("images", hint="test images"),
    )
    groups: dict[tuple[object, ...], dict[tuple[object, ...], list[TransferRow]]] = {}
    for row in rows:
        settings = groups.setdefault((row.arch, row.target, row.method, row.size), {})
        settings.setdefault(row.source, []).append(row)
    lines: list[tuple[Cell, ...]] = []
    for settings in groups.values():
        scores = [
            [_score_cell(mine, field, len(recipe.seeds)) for field in fields]
            for mine in settings.values()
        ]
        marked = [mark_best(column) for column in zip(*scores, strict=True)]
        lines += [
            (*(cell_of(mine[0]) for _, cell_of in shown), *cells, *_how_cells(mine))
            for mine, *cells in zip(settings.values(), *marked, strict=True)
        ]
    note = (
        "Test split, percent; underlined: the target's own metric, best of each target and method in bold. Each "
        "learning rate was chosen on the split named, never on the test split."
    )
    if "map11" in fields:
        note += " Where an image has many labels, top-1 and top-5 count images with a class that is there among the answers."
    if len(recipe.seeds) > 1:
        note += " ±: standard deviation over seeds."
    return Table(
        "transfers",
        "Every transfer, and how its learning rate was chosen",
        columns,
        tuple(lines),
        note,
    )


def _shown_axes(rows: Sequence[TransferRow]) -> list[tuple[Column, Callable[[TransferRow], Cell]]]:
    """The columns that say what was transferred; axes that no row has, or only one value of, are left out."""
    shown: list[tuple[Column, Callable[[TransferRow], Cell]]] = [
        (Column("target", numeric=False), lambda row: Cell(row.target, sort=row.target)),
        (Column("method", numeric=False), lambda row: Cell(row.method, sort=row.method)),
    ]
    if any(row.model for row in rows):
        shown.append(
            (
                Column("model", numeric=False),
                lambda row: Cell(row.model, sort=row.model) if row.model else NONE,
            )
        )
    if any(row.subset for row in rows):
        shown += [
            (Column("training classes", numeric=False), subset_cell),
            (
                Column("eps"),
                lambda row: Cell(shown_eps(row.eps), sort=row.eps) if row.subset else NONE,
            ),
        ]
    if any(row.variant for row in rows):
        shown.append(
            (
                Column("variant", numeric=False),
                lambda row: variant_cell(row.variant, row.same_variants),
            )
        )
    if any(row.per_class for row in rows):
        shown.append(
            (
                Column("per class", hint="training images of each class"),
                lambda row: _size_cell(row.per_class),
            )
        )
    if any(row.steps for row in rows):
        shown.append((Column("steps"), lambda row: _size_cell(row.steps)))
    if len({row.arch for row in rows if row.arch}) > 1:
        shown.insert(0, (Column("arch", numeric=False), lambda row: Cell(row.arch, sort=row.arch)))
    return shown


class OfModel(Protocol):
    """A row about one model; see `harness.report.data.rows`."""

    @property
    def model(self) -> str: ...

    @property
    def arch(self) -> str: ...

    @property
    def subset(self) -> str: ...

    @property
    def num_classes(self) -> int | None: ...

    @property
    def variant(self) -> str: ...

    @property
    def same_variants(self) -> tuple[str, ...]: ...

    @property
    def eps(self) -> float: ...


def subset_cell(row: OfModel) -> Cell:
    if not row.subset:
        return NONE
    return Cell(row.subset, sort=_or_none(row.num_classes), detail=_count(row.num_classes))


def variant_cell(variant: str, same: Sequence[str]) -> Cell:
    return Cell(
        variant or "plain", sort=variant, below=f"is {', '.join(same)}, too" if same else ""
    )


def _size_cell(size: int | None) -> Cell:
    return Cell("all") if size is None else Cell(f"{size:,}", sort=float(size))


def _how_cells(rows: Sequence[TransferRow]) -> tuple[Cell, ...]:
    """Chance, and how the configuration was chosen."""
    first = rows[0]
    chance = 1 / first.num_answers if first.num_answers else None
    lrs = list(dict.fromkeys(row.lr for row in rows if row.lr is not None))
    return (
        Cell(percent(chance, 1) if chance else "–", sort=chance),
        Cell(", ".join(f"{lr:g}" for lr in lrs), sort=lrs[0]) if lrs else NONE,
        Cell(str(first.num_configs), sort=float(first.num_configs), below=_diverged(rows)),
        Cell(first.selected_on, sort=first.selected_on),
        Cell(f"{first.num_images:,}", sort=float(first.num_images)),
    )


def _diverged(rows: Sequence[TransferRow]) -> str:
    number = sum(row.num_diverged for row in rows)
    return f"{number} diverged" if number else ""


def _score_cell(rows: Sequence[TransferRow], field: str, num_seeds: int) -> Cell:
    if getattr(rows[0], field) is None:
        return NONE
    score = estimate(getattr(row, field) for row in rows)
    decimals = decimals_for(row.num_images for row in rows)
    first = rows[0]
    low = field == first.metric and is_near_chance(
        estimate(row.top1 for row in rows).mean, first.num_answers, first.num_images
    )
    return Cell(
        percent(score.mean, decimals) + ("°" if low else ""),
        sort=score.mean,
        below=spread((score,), decimals, num_seeds),
        own=field == first.metric,
    )


def class_table(rows: Sequence[ClassRow], subsets: Sequence[str]) -> Table:
    """The classes that at least one subset leaves out, hardest first; a column for each of those subsets."""
    removed = [row for row in rows if row.removed_by]
    removing = [name for name in subsets if any(name in row.removed_by for row in removed)]
    columns = (
        Column("class", numeric=False),
        Column("rank", hint="1 is the hardest"),
        Column("reference accuracy", hint="percent of the class's images"),
        Column("images"),
        *(Column(name, group="left out of", numeric=False) for name in removing),
    )
    lines = tuple(
        (
            Cell(row.name, sort=row.name),
            Cell(str(row.rank), sort=float(row.rank)) if row.rank is not None else NONE,
            Cell(percent(row.accuracy, 1), sort=row.accuracy) if row.accuracy is not None else NONE,
            Cell(f"{row.num_images:,}", sort=float(row.num_images))
            if row.num_images is not None
            else NONE,
            *(
                Cell("left out", sort="0")
                if name in row.removed_by
                else Cell("kept", sort="1", absent=True)
                for name in removing
            ),
        )
        for row in removed
    )
    return Table("classes", "Classes left out by at least one subset", columns, lines)


def percent(fraction: float, decimals: int) -> str:
    """A fraction as a percentage, without the sign."""
    return f"{100 * fraction:.{decimals}f}"


def spread(estimates: Sequence[Estimate], decimals: int, num_seeds: int) -> str:
    """`± 0.4 / 0.2` over seeds, and which part of the recipe's seeds is there where some are not."""
    parts = []
    if all(one.sd is not None for one in estimates):
        parts.append(
            "± " + " / ".join(percent(one.sd, decimals) for one in estimates if one.sd is not None)
        )
    if estimates[0].num_seeds < num_seeds:
        parts.append(f"{estimates[0].num_seeds} of {num_seeds} seeds")
    return ", ".join(parts)


def decimals_for(num_images: Iterable[int]) -> int:
    """Two decimals where an image weighs at most a hundredth of a percent, else one."""
    return 2 if min(num_images) >= 10_000 else 1


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _or_none(number: int | None) -> float | None:
    return None if number is None else float(number)
