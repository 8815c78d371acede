"""The `harness` command.

Each command is a module of its name: `harness write-beton` runs `command` of
`harness/cli/commands/write_beton.py`.
A UserError, a wrong option, or a system error with a known fix prints one or two red lines and
exits with 2. An interruption prints one line and exits with 130, a bug prints its traceback and
exits with 1. Commands import what they need when they run, so that `harness --help` stays fast.
"""

import gc
import os
import sys
import traceback
from typing import Any, NoReturn, cast

import click

from harness.cli import verbosity
from harness.system import interpreter
from writers import names
from writers.errors import UserError
from writers.text_names import printable_lines, shortened

COMMANDS = "harness.cli.commands"


class CommandGroup(click.Group):
    """A click group whose commands are the modules of a package, imported on use."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run one command at the default verbosity, which -v and -q change."""
        verbosity.reset()
        return super().main(*args, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [name.replace("_", "-") for name in names.names(COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises UserError if no command has this name."""
        if names.normalize(cmd_name) not in names.names(COMMANDS):
            raise names.unknown("command", cmd_name, self.list_commands(ctx))
        command: click.Command = names.find(COMMANDS, cmd_name, "command").command
        return verbosity.add_options(command)


def _print_version(ctx: click.Context, parameter: click.Parameter, is_set: bool) -> None:
    if is_set:
        from importlib.metadata import version

        click.echo(f"harness {version('harness')}")
        ctx.exit()


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Pretrain models on subsets of classes, clean or robust, and transfer them to other datasets.

    One recipe and one command lead from images to a report. Start with: harness run demo
    """


verbosity.add_options(cli)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code. None stands for the arguments of the program."""
    if arguments is None:
        interpreter.set_options()
    # Imports and plans create almost no garbage, but looking for it takes a sixth of their time.
    gc.set_threshold(100_000)
    try:
        # click returns the code of ctx.exit(); a command's own return value is None.
        code: Any = cli.main(arguments, prog_name="harness", standalone_mode=False, color=_color())
    except UserError as error:
        if verbosity.is_verbose():
            traceback.print_exception(error)
        code = _print_error(error.message, error.hint)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else _command_path(arguments)
        # click lists the choices of a missing option on a line each.
        message = " ".join(error.format_message().split())
        code = _print_error(message, f"See {command} --help.{_hint_on_settings(error)}")
    except click.ClickException as error:
        code = _print_error(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.secho("Interrupted.", fg="yellow", err=True, color=_color())
        code = 130
    except MemoryError as error:
        if verbosity.is_verbose():
            traceback.print_exception(error)
        code = _print_error(
            f"There is not enough memory: {error}".rstrip(": ") + ".",
            "Use a smaller resolution, a smaller batch or fewer images.",
        )
    except (OSError, RuntimeError) as error:
        from harness.system import os_errors

        explained = os_errors.explain(error) or os_errors.of_path(error)
        if explained is None:
            raise
        if verbosity.is_verbose():
            traceback.print_exception(error)
        code = _print_error(explained.message, explained.hint)
    # Skip the interpreter's final garbage collection, which takes 0.4 s after a report. With torch
    # loaded, its libraries would report the remaining objects as leaks.
    if "torch" not in sys.modules:
        gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)


def _command_path(arguments: list[str] | None) -> str:
    """Return the command on a command line, such as "harness subset show".

    click does not name it in errors about an option without its value.
    """
    command, path = cast(click.Command, cli), ["harness"]
    for word in sys.argv[1:] if arguments is None else arguments:
        if not isinstance(command, click.Group):
            break
        if not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            if found is None:
                break
            command = found
            path.append(word)
    return " ".join(path)


def _hint_on_settings(error: click.UsageError) -> str:
    """Explain how to change a setting of the recipe, if an option or argument may be meant so."""
    has_set = error.ctx and any(option.name == "overrides" for option in error.ctx.command.params)
    is_unknown = isinstance(error, click.NoSuchOption) or "extra argument" in error.message
    return " Settings of a recipe: --set KEY=VALUE." if has_set and is_unknown else ""


def _color() -> bool | None:
    """Return False if NO_COLOR is set (no-color.org); None means colors on a terminal only."""
    return False if os.environ.get("NO_COLOR") else None


def _print_error(message: str, hint: str = "") -> int:
    """Print red lines with control characters escaped; return the exit code of errors, 2."""
    for text in map(shortened, filter(None, (message, hint))):
        click.secho(printable_lines(text), fg="red", err=True, color=_color())
    return 2


if __name__ == "__main__":
    main()
