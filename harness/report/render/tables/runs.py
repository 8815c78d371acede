"""Rows to tables about the runs themselves: differences, where the time went, what was written, what ran on what."""

from collections import Counter
from collections.abc import Sequence

from harness.report.data.run_rows import SPANS, BetonRow, EnvironmentRow, StageRow, TimingRow
from harness.report.render.tables.table import Cell, Column, Table
from harness.report.stats.effects import MEASURES, Effect

TIMING_TITLES = {
    "pretrain": "Pretraining runs",
    "transfer": "Transfer runs",
    "evaluate": "Evaluations",
}
_UNKNOWN = Cell("–", absent=True)
_VALUES_SHOWN = 4


def effects_table(effects: Sequence[Effect]) -> Table:
    """The differences behind the opening sentences, averaged over everything else within a seed."""
    archs = dict.fromkeys(effect.arch for effect in effects)
    columns = [
        Column("change", numeric=False),
        Column("measured", numeric=False),
        Column("averaged over", numeric=False),
        Column("difference", hint="percentage points"),
        Column("95 % interval", hint="t interval over seeds"),
        Column("seeds"),
    ]
    lines = []
    for effect in effects:
        arch = f"{effect.arch}: " if len(archs) > 1 else ""
        prefix = "eps " if effect.axis == "eps" else ""
        change = f"{arch}{prefix}{effect.setting} instead of {effect.baseline}"
        measure = MEASURES.get(effect.measure, effect.measure)
        over = "; ".join(f"{axis} {', '.join(values)}" for axis, values in effect.over.items())
        half = effect.estimate.half_width
        low, high = (effect.estimate.mean - (half or 0), effect.estimate.mean + (half or 0))
        lines.append(
            (
                Cell(change, sort=change),
                Cell(measure, sort=measure),
                Cell(over, sort=over),
                Cell(
                    points(effect.estimate.mean),
                    sort=effect.estimate.mean,
                    best=effect.estimate.is_clear,
                ),
                Cell(f"{points(low)} to {points(high)}", sort=half)
                if half is not None
                else Cell("one seed", absent=True),
                Cell(str(effect.estimate.num_seeds), sort=float(effect.estimate.num_seeds)),
            )
        )
    note = "Percentage points, paired by seed. Bold: the interval leaves out zero."
    if tested := sum(effect.estimate.half_width is not None for effect in effects):
        note += f" Each line by itself: of {tested} true zeros about {tested / 20:g} would be bold."
    return Table("differences", "Differences", tuple(columns), tuple(lines), note)


def points(fraction: float) -> str:
    """A difference of fractions as signed percentage points."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def timing_tables(rows: Sequence[TimingRow]) -> list[Table]:
    """One table for each kind of run; the bars of one table share their scale."""
    tables = []
    for kind, title in TIMING_TITLES.items():
        mine = [row for row in rows if row.kind == kind]
        if mine:
            longest = max(sum(row.spans_ms) for row in mine) or 1.0
            tables.append(
                Table(
                    f"timing-{kind}",
                    title,
                    (
                        Column("run", numeric=False),
                        Column("a step, ms", numeric=False, hint="mean over the run's steps"),
                        Column("images/s", hint="end to end"),
                        Column("replayed", hint="images/s on a batch already on the device"),
                        Column("fed", hint="images/s end to end as a share of replayed"),
                        Column("waits", hint="share of the step spent waiting for data"),
                    ),
                    tuple(_timing_line(row, longest) for row in mine),
                )
            )
    return tables


def _timing_line(row: TimingRow, longest: float) -> tuple[Cell, ...]:
    total = sum(row.spans_ms)
    bar = tuple(
        (span, 100 * milliseconds / longest)
        for span, milliseconds in zip(SPANS, row.spans_ms, strict=True)
        if milliseconds > 0
    )
    return (
        Cell(row.name, sort=row.name, below=row.verdict),
        Cell(f"{total:,.1f}", sort=total, bar=bar),
        _number(row.img_per_s),
        _number(row.replay_img_per_s),
        _share(row.gpu_fed),
        _share(row.data_wait_fraction),
    )


def beton_table(rows: Sequence[BetonRow]) -> Table:
    columns = (
        Column("dataset", numeric=False),
        Column("subset", numeric=False),
        Column("split", numeric=False),
        Column("classes"),
        Column("images"),
        Column("MB"),
        Column("sha256", numeric=False),
    )
    return Table(
        "betons",
        "Files the models read",
        columns,
        tuple(
            (
                Cell(row.dataset, sort=row.dataset),
                Cell(row.subset, sort=row.subset),
                Cell(row.split, sort=row.split),
                _number(row.num_classes),
                _number(row.num_images),
                Cell(f"{row.size_bytes / 1e6:,.1f}", sort=float(row.size_bytes)),
                Cell(row.sha256[:12], sort=row.sha256),
            )
            for row in rows
        ),
    )


def kinds_table(rows: Sequence[StageRow]) -> Table:
    """How many stages of each kind are done, the time they took, and the number formats that their networks computed in."""
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        times = [row.wall_s for row in mine]
        lines.append(
            (
                Cell(kind, sort=kind),
                _number(len(times)),
                Cell(duration(sum(times)), sort=sum(times)),
                Cell(duration(max(times)), sort=max(times)),
                _precisions(mine),
            )
        )
    if len(lines) > 1:  # the sum has nothing to sort by: it stays last
        times = [row.wall_s for row in rows]
        lines.append(
            (
                Cell("all"),
                Cell(f"{len(times):,}"),
                Cell(duration(sum(times))),
                Cell(duration(max(times))),
                Cell(""),
            )
        )
    columns = (
        Column("stages", numeric=False),
        Column("done"),
        Column("time in all"),
        Column("longest"),
        Column(
            "precision", numeric=False, hint="number format of the network; in brackets: stages"
        ),
    )
    return Table("kinds", "Time by kind of stage", columns, tuple(lines))


def _precisions(rows: Sequence[StageRow]) -> Cell:
    """The formats of these stages; if they differ, each with its number of stages, commonest first."""
    counts = Counter(row.precision for row in rows if row.precision).most_common()
    if not counts:
        return _UNKNOWN
    if len(counts) == 1:
        return Cell(counts[0][0], sort=counts[0][0])
    text = "; ".join(f"{name} ({number:,})" for name, number in counts)
    return Cell(text, sort=text)


def environment_table(rows: Sequence[EnvironmentRow]) -> Table:
    """Every recorded fact; where stages differ, each value with the number of stages that had it."""
    lines = []
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        shown = [
            row.value if len(mine) == 1 else f"{row.value} ({row.num_stages:,} stages)"
            for row in mine[:_VALUES_SHOWN]
        ]
        more = len(mine) - len(shown)
        lines.append(
            (
                Cell(name, sort=name),
                Cell(
                    "; ".join(shown),
                    sort=shown[0],
                    detail=f"and {more} more values" if more else "",
                ),
            )
        )
    columns = (Column("recorded", numeric=False), Column("value", numeric=False))
    return Table("environment", "Machine and versions", columns, tuple(lines))


def stages_table(rows: Sequence[StageRow]) -> Table:
    columns = (
        Column("stage", numeric=False),
        Column("key", numeric=False),
        Column("began (UTC)", numeric=False),
        Column("time"),
    )
    return Table(
        "stages",
        "Stages",
        columns,
        tuple(
            (
                Cell(row.name, sort=row.name),
                Cell(row.key, sort=row.key),
                Cell(row.started_at[:19].replace("T", " "), sort=row.started_at),
                Cell(duration(row.wall_s), sort=row.wall_s),
            )
            for row in rows
        ),
    )


def duration(seconds: float) -> str:
    """`8.4 s`, `12 min 05 s`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _number(value: float | None) -> Cell:
    return _UNKNOWN if value is None else Cell(f"{value:,.0f}", sort=float(value))


def _share(value: float | None) -> Cell:
    return _UNKNOWN if value is None else Cell(f"{100 * value:.0f} %", sort=float(value))
