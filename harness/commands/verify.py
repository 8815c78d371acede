"""Check betons, byte by byte."""

import json
import sys
from pathlib import Path

import click


@click.command(short_help="Check betons: digest, header, every sample.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...",
                type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="For programs: {file: [problem, ...]}.")
def command(files: tuple[Path, ...], as_json: bool) -> None:
    """Check that each beton has its manifest's digest and header, and that every sample decodes.

    Exit code 1 where one is broken; what is broken is named.
    """
    from harness import console
    from writers import store

    problems: dict[str, list[str]] = {}
    for file in files:
        with console.progress(f"verify {file.name}", "samples") as report:
            problems[str(file)] = store.verify(file, report)
    if as_json:
        click.echo(json.dumps(problems, indent=1))
    else:
        for name, found in problems.items():
            click.echo(f"{name}: " + (f"{len(found)} problems" if len(found) > 1 else "broken" if found else "good"))
            for problem in found:
                click.secho(f"  {problem}", fg="red")
    sys.exit(1 if any(problems.values()) else 0)
