"""Build the section on timing: cost of each model, time per step and throughput of each run."""

from collections.abc import Sequence

from harness.report.data.run_rows import TimingRow
from harness.report.render.section import (
    MAX_LOOKUP_ROWS,
    LegendEntry,
    Section,
    folds,
    if_long,
    if_short,
)
from harness.report.render.tables import runs as run_tables

SPAN_LABELS = {
    "data_wait": "waiting for data",
    "copy": "copy to the device",
    "augment": "augmentation",
    "attack": "attack",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
}


def timing_section(rows: Sequence[TimingRow]) -> Section:
    """Accuracy and cost of each model; time per step and throughput of each run."""
    of_steps = run_tables.timing_tables(rows)
    tables = [run_tables.cost_table(rows), *of_steps]
    spans = {span for row in rows for span in SPAN_LABELS if getattr(row, f"{span}_ms")}
    legend = tuple(
        LegendEntry(label, swatch=span) for span, label in SPAN_LABELS.items() if span in spans
    )
    note = "Waits: fraction of a step spent waiting for data."
    if any(row.replay_img_per_s for row in rows):
        note = (
            "Replayed: images/s when one batch, already on the device, is trained on repeatedly: "
            "the limit for any loader. Fed: images/s end to end, relative to replayed. Above "
            f"100 %, the replay was measured too slow. {note}"
        )
    return Section(
        "timing",
        "Timing",
        legend=legend,
        tables=tuple(table for each in tables for table in if_short(each, MAX_LOOKUP_ROWS)),
        folds=folds(*(table for each in tables for table in if_long(each, MAX_LOOKUP_ROWS))),
        note=note if of_steps else "",
    )
