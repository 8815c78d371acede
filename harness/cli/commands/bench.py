"""Measure speed: contenders side by side on the same work, in interleaved rounds, as ratios."""

import click

from writers import names

BENCHES = "harness.cli.benches"


class Benches(click.Group):
    """`harness bench load` is `command` in `harness/cli/benches/load.py`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names.names(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        command: click.Command = names.find(BENCHES, cmd_name, "benchmark").command
        return command


@click.group(cls=Benches, short_help="Measure loading, writing, training: medians and ratios.")
def command() -> None:
    """Measure contenders side by side: rounds take turns, so that a slow spell of the machine hits all of them.

    What is compared is always in the same run; rates of different runs or machines are not.
    """
