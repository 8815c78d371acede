"""The `harness` command. A name is a file: `harness write-beton` is `command` in `harness/cli/commands/write_beton.py`.

A person's mistake ends in one or two red lines and exit code 2; an interruption in one line and 130; a bug in its
traceback and 1. Commands import what they need when they run, so that `harness --help` stays instant.
"""

import gc
import sys
from typing import Any, NoReturn

import click

from writers import names
from writers.errors import UserError

COMMANDS = "harness.cli.commands"


class Catalogue(click.Group):
    """A click group whose commands are the modules of a package, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name.replace("_", "-") for name in names.names(COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if names.normalise(cmd_name) not in names.names(COMMANDS):
            raise names.unknown("command", cmd_name, self.list_commands(ctx))
        command: click.Command = names.find(COMMANDS, cmd_name, "command").command
        return command


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"harness {version('harness')}")
        ctx.exit()


@click.group(
    cls=Catalogue,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="The version, and exit.",
)
def cli() -> None:
    """Class-filtered pretraining and transfer, clean and L2-robust, on FFCV loaders.

    One recipe, one command: harness run recipes/demo.yaml
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    gc.set_threshold(
        100_000
    )  # imports and plans make no garbage, and to look for it takes a sixth of their time
    try:
        # click hands back the code of ctx.exit(); a command's own return value is None
        code: Any = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except UserError as error:
        code = _say(error.message, error.hint)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "harness"
        code = _say(error.format_message(), f"See {command} --help.")
    except click.ClickException as error:
        code = _say(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.secho("Interrupted.", fg="yellow", err=True)
        code = 130
    except OSError as error:
        from harness.system import os_errors as disk

        known = disk.explain(error)
        if known is None:
            raise
        code = _say(known.message, known.hint)
    if "torch" not in sys.modules:  # whose libraries would call what is left a leak
        gc.freeze()  # nothing is looked through at the interpreter's end, either: after a report that takes 0.4 s
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, hint: str = "") -> int:
    """The red lines; returns the exit code of a person's mistake."""
    click.secho(message, fg="red", err=True)
    if hint:
        click.secho(hint, fg="red", err=True)
    return 2


if __name__ == "__main__":
    main()
