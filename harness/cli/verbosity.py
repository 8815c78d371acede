"""The options -v and -q: how much a command writes to standard error.

The level of the logger `harness` is the only state. INFO is the default. DEBUG (-v) adds details of
a run and tracebacks of errors that a person can fix. WARNING (-q) shows only results, warnings and
errors.
"""

import logging
import sys

import click

LOGGER = logging.getLogger("harness")


class _StandardError(logging.Handler):
    """Looks up sys.stderr for each line, because a live table replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def is_quiet() -> bool:
    """True if progress must not be shown (-q)."""
    return LOGGER.level > logging.INFO


def is_verbose() -> bool:
    """True if details must be shown (-v)."""
    return logging.NOTSET < LOGGER.level <= logging.DEBUG


def reset() -> None:
    """Set the default level, and print log lines on standard error."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.handlers[:] = [handler]


def add_options(command: click.Command) -> click.Command:
    """Add -v and -q to a command and its subcommands, so that they may follow either name."""
    for one in (command, *getattr(command, "commands", {}).values()):
        if not any(parameter.name == "verbose" for parameter in one.params):
            one.params += [
                _flag("verbose", logging.DEBUG, "Show details: folders, stages, tracebacks."),
                _flag("quiet", logging.WARNING, "Show only results, warnings and errors."),
            ]
    return command


def _flag(name: str, level: int, text: str) -> click.Option:
    def set_level(ctx: click.Context, parameter: click.Parameter, is_set: bool) -> None:
        if not is_set:
            return
        if ctx.meta.setdefault("harness.verbosity", name) != name:
            raise click.UsageError("--verbose and --quiet exclude each other.", ctx)
        LOGGER.setLevel(level)

    return click.Option(
        [f"-{name[0]}", f"--{name}"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=set_level,
        help=text,
    )
