"""Time the parts of our decoding, and its scaling over cores: `bench load --parts, --scaling`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness.cli import console
from harness.cli.benches._checkout import measure_in_checkout
from harness.cli.benches._contenders import measure_contenders
from harness.system import environment
from writers.errors import UserError


def measure_parts(work: Mapping[str, Any]) -> dict[str, Any]:
    """Measure, print and return the CPU time of decoding a crop.

    It is measured for each part of the work, and for one to three crops (views) of an image.

    Args:
        work: Fields of `benchmarks.contender.Work`, such as the corpus, batch size and threads.

    Raises:
        UserError: The measurement failed, for example because the C kernel is missing.
    """
    from rich.table import Table

    from loaders.kernel_c import instruction_sets

    if not instruction_sets():
        raise UserError(
            "--parts measures the C kernel, which was not built.",
            "Install a C compiler and libjpeg-turbo's headers, then run: pip install -e .",
        )
    measured = measure_in_checkout("load_parts", work, "The parts")
    parts = ("entropy", "transform", "color", "resize", "whole")
    table = Table("form", "instructions", *parts, title="ms of CPU time per crop, one thread")
    for row in measured["parts"]:
        table.add_row(row["form"], row["instructions"], *(f"{row[part]:.3f}" for part in parts))
    terminal = console.out()
    terminal.print(table)
    views = Table(
        "form",
        "instructions",
        *("one view", "second", "third"),
        title="ms of CPU time for one view of an image, and for each further view",
    )
    for row in measured["views"]:
        views.add_row(row["form"], row["instructions"], *(f"{ms:.3f}" for ms in row["views"]))
    terminal.print(views)
    gil = measured["gil_ms"]
    terminal.print(
        f"Python's time for a batch of {work['batch_size']}: {gil['call']:.3f} ms around the call "
        f"of C with 16 threads, {gil['crops']:.3f} ms to draw crops."
    )
    return _without_contenders("load parts", work, measured)


def measure_scaling(names: list[str], work: Mapping[str, Any], num_rounds: int) -> dict[str, Any]:
    """Measure our variants with 1, 2, 4, ... threads and all cores; print and return the record.

    Args:
        names: Contenders FILE:VARIANT, such as `ours:dct`.
        work: Fields of `benchmarks.contender.Work`; the number of threads is replaced.
        num_rounds: Rounds for each number of threads.
    """
    from rich.table import Table

    num_cores = environment.num_cores()
    counts = sorted({num_cores, *(2**k for k in range(num_cores.bit_length()) if 2**k < num_cores)})
    rows = []
    table = Table("contender", "threads", "images/s", "a thread", "relative to 1 thread")
    for count in counts:
        measured, absent, _ = measure_contenders(names, {**work, "num_threads": count}, num_rounds)
        rows += [
            {"name": name, "threads": count, "median": found.median} | asdict(found)
            for name, found in measured.items()
        ]
    alone = {row["name"]: row["median"] for row in rows if row["threads"] == 1}
    for row in sorted(rows, key=lambda row: (row["name"], row["threads"])):
        rate, count = row["median"], row["threads"]
        speedup = f"{rate / alone[row['name']]:.2f}x"
        table.add_row(row["what"], str(count), f"{rate:,.0f}", f"{rate / count:,.0f}", speedup)
    console.out().print(table)
    return _without_contenders("load scaling", work, {"rows": rows, "absent": absent})


def _without_contenders(
    name: str, work: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Build a record without the field `contenders`; omit paths of the user's folders."""
    about = environment.describe("cpu", environment.num_cores())
    kept = {key: value for key, value in work.items() if key not in ("corpus", "scratch")}
    return {"benchmark": name, "work": kept, "environment": about, **found}
