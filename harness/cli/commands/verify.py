"""Check betons, byte by byte."""

import json
import sys
from pathlib import Path

import click


def _part(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise click.BadParameter("say which part of how many: 1/8 is the first of eight.")
    return int(number), int(parts)


@click.command(short_help="Check betons: digest, header, every sample.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option(
    "--part",
    metavar="K/N",
    default="1/1",
    callback=_part,
    help="Only the K-th of N parts of each file's samples, so that machines can share the work.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the machine's cores.")
@click.option("--json", "as_json", is_flag=True, help="For programs: {file: [problem, ...]}.")
def command(
    files: tuple[Path, ...], part: tuple[int, int], threads: int | None, as_json: bool
) -> None:
    """Check that each beton is byte for byte what its manifest says, and that every sample decodes without a warning.

    Exit code 1 where one is broken; what is broken is named, sample by sample.
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
        for name, found in problems.items():
            click.echo(
                f"{name}: "
                + (f"{len(found)} problems" if len(found) > 1 else "broken" if found else "good")
            )
            for problem in found:
                click.secho(f"  {problem}", fg="red")
    sys.exit(1 if any(problems.values()) else 0)
