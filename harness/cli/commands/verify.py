"""Verify `.beton` files byte by byte."""

import json
import sys
from pathlib import Path

import click

from harness.cli.number_types import IntType
from harness.cli.path_types import PathType
from writers.text_names import counted


def _parse_part(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise click.BadParameter("use K/N, such as 1/8 for the first of eight parts.")
    return int(number), int(parts)


@click.command(short_help="Check betons: digest, header, every sample.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=PathType(exists=True, folder=False),
)
@click.option(
    "--part",
    metavar="K/N",
    default="1/1",
    callback=_parse_part,
    help="Check only the K-th of N parts of the samples, so that machines can share the work.",
)
@click.option("--threads", type=IntType(min=1), help="Number of threads. Default: number of cores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: {file: [problem, ...]}.")
def command(
    files: tuple[Path, ...], part: tuple[int, int], threads: int | None, as_json: bool
) -> None:
    """Check that each beton matches its manifest, and that every sample decodes without a warning.

    Damaged samples are listed. The exit code is 1 if a file is damaged.

    Example: harness verify data/imagenet-in900/*.beton
    """
    from harness.cli import console
    from harness.system import environment
    from writers.beton import verify

    problems: dict[str, list[str]] = {}
    for file in files:
        with console.progress(f"verify {file.name}", "samples") as report:
            problems[str(file)] = verify.verify(
                file, report, part=part, num_threads=threads or environment.num_cores()
            )
    if as_json:
        click.echo(json.dumps(problems, indent=1))
    else:
        for name, problems_of_file in problems.items():
            summary = counted(len(problems_of_file), "problem") if problems_of_file else "good"
            click.echo(f"{name}: {summary}")
            for problem in problems_of_file:
                click.secho(f"  {problem}", fg="red")
    sys.exit(1 if any(problems.values()) else 0)
