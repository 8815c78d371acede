"""Error rates of the report's tests and intervals in simulated studies with known truth."""

from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.number_types import IntType
from harness.cli.options import json_option
from harness.system.atomic_write import write_json


@click.command(short_help="Simulate error rates of the report's tests and intervals.")
@click.option(
    "--studies",
    "num_studies",
    type=IntType(min=10),
    default=2000,
    show_default=True,
    help="Number of simulated studies per line.",
)
@click.option(
    "--seed",
    type=IntType(min=0),
    default=0,
    show_default=True,
    help="Seed of the simulated studies.",
)
@json_option
def command(num_studies: int, seed: int, json_file: Path | None) -> None:
    """Simulate studies, and count false positives and intervals that include the truth.

    Procedures that reports use must have at most 6 % false positives and at least 93 %
    coverage; otherwise the exit code is 1. Lines with `no` in the column `printed` are
    procedures that reports do not use, for comparison.

    Example: harness bench statistics --studies 1000 --json statistics.json
    """
    from harness.report.stats.calibration import calibrations, largest_standard_error

    click.echo(
        "| procedure | design | printed | no interval | false positives | coverage |\n"
        "|---|---|---|---|---|---|"
    )
    lines = []
    for line in calibrations(num_studies, seed):
        lines.append(line)
        rates = (line.without_interval, line.false_positives, line.coverage)
        cells = ["–" if rate is None else f"{100 * rate:.1f} %" for rate in rates]
        printed = "yes" if line.is_printed else "no"
        click.echo(f"| {line.procedure} | {line.design} | {printed} | {' | '.join(cells)} |")
    failed = [line for line in lines if line.is_printed and not line.is_calibrated]
    error = 100 * largest_standard_error(num_studies)
    click.echo(
        f"\n{num_studies:,} studies per line, seed {seed}; "
        f"standard error of a rate of 5 %: {error:.2f} %."
    )
    if json_file:
        write_json(
            json_file,
            {
                "num_studies": num_studies,
                "seed": seed,
                "lines": [asdict(line) | {"is_calibrated": line.is_calibrated} for line in lines],
            },
        )
    if failed:
        click.echo(f"{len(failed)} procedures that reports use miss these limits.", err=True)
        raise SystemExit(1)
