"""Build tables on effects and runs: differences, timing, files, stages and the environment."""

from collections import Counter
from collections.abc import Sequence

from harness.report.data.run_rows import SPANS, BetonRow, EnvironmentRow, StageRow, TimingRow
from harness.report.render.tables.cells import (
    NONE,
    interval_cell,
    number,
    optional_text,
    percent_cell,
    points,
    text,
)
from harness.report.render.tables.table import Cell, Column, ColumnOf, Table, filled, table_of
from harness.report.stats.effects import MEASURES, Effect
from writers.text_names import percent

_MAX_VALUES = 4  # largest number of values of an environment fact that are shown


def effects_table(effects: Sequence[Effect]) -> Table:
    """The differences that the opening sentences are based on."""
    has_archs = len({effect.arch for effect in effects}) > 1
    columns: list[ColumnOf[Effect]] = [
        (Column("change", numeric=False), lambda effect: text(_change(effect, has_archs))),
        (
            Column("measured", numeric=False),
            lambda effect: text(MEASURES.get(effect.measure, effect.measure)),
        ),
        (Column("averaged over", numeric=False), lambda effect: text(_over(effect))),
        (
            Column("difference", hint="percentage points"),
            lambda effect: Cell(
                points(effect.difference.mean, effect.difference.half_width),
                sort=effect.difference.mean,
                below="clear" if effect.difference.is_clear else "",
            ),
        ),
        (Column("95 % interval", hint="t interval over seeds"), _interval),
        (Column("seeds"), lambda effect: number(effect.difference.num_seeds)),
    ]
    note = "Percentage points, paired by seed. Clear: the interval excludes zero."
    if tested := sum(effect.difference.half_width is not None for effect in effects):
        note += (
            f" Intervals are not adjusted: if all {tested} true differences were zero, about "
            f"{tested / 20:g} lines would be clear."
        )
    return table_of("differences", "Differences", effects, columns, note)


def _change(effect: Effect, has_archs: bool) -> str:
    arch = f"{effect.arch}: " if has_archs else ""
    prefix = "eps " if effect.axis == "eps" else ""
    return f"{arch}{prefix}{effect.setting} instead of {effect.baseline}"


def _over(effect: Effect) -> str:
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in effect.over.items())


def _interval(effect: Effect) -> Cell:
    mean, half = effect.difference.mean, effect.difference.half_width
    if half is None:
        reason = "one seed" if effect.difference.num_seeds < 2 else "equal seeds"
        return Cell(reason, absent=True)
    return interval_cell(mean - half, mean + half, half, NONE)


def cost_table(rows: Sequence[TimingRow]) -> Table:
    """List the accuracy of each pretrained model, and the time and memory of its training."""
    trained = [row for row in rows if row.kind == "pretrain"]
    columns: list[ColumnOf[TimingRow]] = [
        (Column("model", numeric=False), lambda row: text(row.name)),
        (Column("val top-1", hint="percent"), lambda row: percent_cell(row.val_top1)),
        (
            Column("time", hint="the whole stage; below: training alone"),
            lambda row: _time_cell(row.wall_s, row.train_s),
        ),
        (
            Column("energy, Wh", hint="of the GPU, other processes on it included"),
            lambda row: number(row.energy_wh),
        ),
        (
            Column("GPU memory, GiB", hint="peak that torch reserved"),
            lambda row: (
                NONE
                if row.gpu_memory_bytes is None
                else Cell(f"{row.gpu_memory_bytes / 2**30:.1f}", sort=float(row.gpu_memory_bytes))
            ),
        ),
        (Column("GPU", numeric=False), lambda row: optional_text(row.gpu)),
    ]
    return table_of("costs", "Accuracy and cost", trained, filled(trained, columns))


def _time_cell(wall_s: float | None, train_s: float | None) -> Cell:
    if wall_s is None:
        return NONE
    below = "" if train_s is None else duration(train_s)
    return Cell(duration(wall_s), sort=wall_s, below=below)


def timing_tables(rows: Sequence[TimingRow]) -> list[Table]:
    """One table per kind of stage. The bars of a table have the same scale.

    Stages without steps, such as a fit of logistic regression to features, have no line.
    """
    tables = []
    rows = [row for row in rows if any(row.spans_ms)]
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        longest = max(sum(row.spans_ms) for row in of_kind)
        title = f"Time per step: {kind}"
        tables.append(_timing_table(f"timing-{kind}", title, of_kind, longest))
    return tables


def _timing_table(name: str, title: str, rows: Sequence[TimingRow], longest: float) -> Table:
    columns: list[ColumnOf[TimingRow]] = [
        (Column("run", numeric=False), lambda row: text(row.name, row.verdict)),
        (
            Column("a step, ms", numeric=False, hint="mean over the run's steps"),
            lambda row: Cell(
                f"{sum(row.spans_ms):,.1f}",
                sort=sum(row.spans_ms),
                bar=tuple(
                    (span, 100 * milliseconds / longest)
                    for span, milliseconds in zip(SPANS, row.spans_ms, strict=True)
                    if milliseconds > 0
                ),
            ),
        ),
        (Column("images/s", hint="end to end"), lambda row: number(row.img_per_s)),
        (
            Column("replayed", hint="images/s on a batch already on the device"),
            lambda row: number(row.replay_img_per_s),
        ),
        (
            Column("fed", hint="images/s end to end, relative to replayed"),
            _fed_cell,
        ),
        (
            Column("waits", hint="fraction of the step spent waiting for data"),
            lambda row: _whole_percent(row.data_wait_fraction),
        ),
    ]
    return table_of(name, title, rows, filled(rows, columns))


def _fed_cell(row: TimingRow) -> Cell:
    """Throughput relative to the replay; marked if the replay was slower than the run itself."""
    if row.img_per_s and row.replay_img_per_s and row.img_per_s > row.replay_img_per_s:
        ratio = row.img_per_s / row.replay_img_per_s
        return Cell(f"{100 * ratio:.0f} %", sort=ratio, below="replay slower")
    return _whole_percent(row.gpu_fed)


def _whole_percent(value: float | None) -> Cell:
    return NONE if value is None else Cell(f"{percent(value, 0)} %", sort=float(value))


def beton_table(rows: Sequence[BetonRow]) -> Table:
    """The files that the models read."""
    columns: list[ColumnOf[BetonRow]] = [
        (Column("dataset", numeric=False), lambda row: text(row.dataset)),
        (Column("subset", numeric=False), lambda row: text(row.subset)),
        (Column("split", numeric=False), lambda row: text(row.split)),
        (Column("classes"), _classes_cell),
        (Column("images"), lambda row: number(row.num_images)),
        (
            Column("MB"),
            lambda row: Cell(f"{row.size_bytes / 1e6:,.1f}", sort=float(row.size_bytes)),
        ),
        (Column("sha256", numeric=False), lambda row: Cell(row.sha256[:12], sort=row.sha256)),
    ]
    return table_of("betons", "Files the models read", rows, columns)


def _classes_cell(row: BetonRow) -> Cell:
    absent = len(row.classes_without_images)
    below = f"{absent:,} without images" if absent else ""
    return Cell(f"{row.num_classes:,}", sort=float(row.num_classes), below=below)


def kinds_table(rows: Sequence[StageRow]) -> Table:
    """Number, time and precision of the finished stages of each kind."""
    columns = (
        Column("stages", numeric=False),
        Column("done"),
        Column("time in all"),
        Column("longest"),
        Column(
            "precision", numeric=False, hint="number format of the network; in brackets: stages"
        ),
    )
    lines: list[tuple[Cell, ...]] = []
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        times = [row.wall_s for row in of_kind]
        lines.append(
            (
                text(kind),
                number(len(times)),
                Cell(duration(sum(times)), sort=sum(times)),
                Cell(duration(max(times)), sort=max(times)),
                _precisions(of_kind),
            )
        )
    if len(lines) > 1:  # the total's cells have no sort values, so that it stays the last line
        times = [row.wall_s for row in rows]
        total = (f"{len(times):,}", duration(sum(times)), duration(max(times)), "")
        lines.append((Cell("all"), *map(Cell, total)))
    return Table("kinds", "Time by kind of stage", columns, tuple(lines))


def _precisions(rows: Sequence[StageRow]) -> Cell:
    """Format the stages' precision; if it differs, with counts, the most frequent value first."""
    counts = Counter(row.precision for row in rows if row.precision).most_common()
    if not counts:
        return NONE
    if len(counts) == 1:
        return text(counts[0][0])
    return text("; ".join(f"{name} ({count:,})" for name, count in counts))


def environment_table(rows: Sequence[EnvironmentRow]) -> Table:
    """Every recorded fact; if stages differ, each value with its number of stages."""
    columns = (Column("recorded", numeric=False), Column("value", numeric=False))
    lines = []
    for name in dict.fromkeys(row.name for row in rows):
        values = [row for row in rows if row.name == name]
        shown = [
            row.value if len(values) == 1 else f"{row.value} ({row.num_stages:,} stages)"
            for row in values[:_MAX_VALUES]
        ]
        num_hidden = len(values) - len(shown)
        detail = f"and {num_hidden:,} more values" if num_hidden else ""
        lines.append((text(name), Cell("; ".join(shown), sort=shown[0], detail=detail)))
    return Table("environment", "Machine and versions", columns, tuple(lines))


def stages_table(rows: Sequence[StageRow]) -> Table:
    """Every finished stage."""
    columns: list[ColumnOf[StageRow]] = [
        (Column("stage", numeric=False), lambda row: text(row.name)),
        (Column("key", numeric=False), lambda row: text(row.key)),
        (
            Column("began (UTC)", numeric=False),
            lambda row: Cell(row.started_at[:19].replace("T", " "), sort=row.started_at),
        ),
        (Column("time"), lambda row: Cell(duration(row.wall_s), sort=row.wall_s)),
    ]
    return table_of("stages", "Stages", rows, columns)


def duration(seconds: float) -> str:
    """Format as `8.4 s`, `12 min 05 s` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
