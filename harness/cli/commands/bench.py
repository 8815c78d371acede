"""Benchmarks: programs under test (contenders) do the same work in interleaved rounds."""

import click

from harness.cli import verbosity
from writers import names

BENCHES = "harness.cli.benches"


class BenchGroup(click.Group):
    """A click group: `harness bench load` is `command` in `harness/cli/benches/load.py`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all benchmarks."""
        return names.names(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import a benchmark. Raises UserError if no benchmark has this name."""
        command: click.Command = names.find(BENCHES, cmd_name, "benchmark").command
        return verbosity.add_options(command)


@click.group(
    cls=BenchGroup, short_help="Measure loading, writing and training against other programs."
)
def command() -> None:
    """Measure contenders in interleaved rounds, so that a slow machine affects all of them.

    Compare rates only within one run, not between runs or machines.

    Example: harness bench load --help
    """
