"""Whole images with boxes against classification: `harness bench load --workload whole`."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from harness.cli import console
from harness.cli.benches._checkout import ROOT, checkout_environment
from writers.errors import UserError


def measure_whole(work: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure and print the CPU time per pixel of detection against classification.

    Args:
        work: Fields of `benchmarks.contender.Work`.

    Returns:
        A row per form: ns per pixel in each round, and the ratios within a round.

    Raises:
        UserError: The measurement failed.
    """
    from rich.table import Table

    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_whole", json.dumps(work)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=checkout_environment(),
    )
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"Whole images cannot be measured: {reason[0]}")
    rows: list[dict[str, Any]] = json.loads(process.stdout)
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
