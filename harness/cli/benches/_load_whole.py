"""Compare detection with classification on whole images: `bench load --workload whole`."""

import statistics
from collections.abc import Mapping
from typing import Any

from harness.cli import console
from harness.cli.benches._checkout import measure_in_checkout


def measure_whole(work: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure and print the CPU time per decoded pixel, for detection and for classification.

    Args:
        work: Fields of `benchmarks.contender.Work`, such as the corpus, batch size and threads.

    Returns:
        A row per storage form of the images: its name `form`; `detection` and `classification`, ns
        per pixel in each round; and `ratios`, detection / classification in each round.

    Raises:
        UserError: The measurement failed.
    """
    from rich.table import Table

    rows: list[dict[str, Any]] = measure_in_checkout("load_whole", work, "Whole images")
    columns = ("form", "classification", "detection", "detection / classification")
    table = Table(*columns, title="ns of CPU time per decoded pixel of whole images")
    for row in rows:
        pairs = zip(row["detection"], row["classification"], strict=True)
        row["ratios"] = [detection / classification for detection, classification in pairs]
        medians = (statistics.median(row[name]) for name in ("classification", "detection"))
        ratio, low, high = statistics.median(row["ratios"]), min(row["ratios"]), max(row["ratios"])
        table.add_row(
            row["form"],
            *(f"{median:.2f}" for median in medians),
            f"{ratio:.2f} ({low:.2f} to {high:.2f})",
        )
    console.out().print(table)
    return rows
