"""Arguments and options that several commands share."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from harness.cli import completion
from harness.cli.number_types import DeviceType, IntType
from harness.cli.path_types import PathType
from harness.system.folders import Folders

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, such as pretrain.epochs=1; may be repeated.",
)


json_option = click.option(
    "--json",
    "json_file",
    type=PathType(folder=False, written=True),
    metavar="FILE",
    help="Write the measurements to FILE, rounds as they end.",
)

resolution_option = click.option(
    "--resolution",
    type=IntType(min=1),
    metavar="PIXELS",
    help="Resolution of the images. Default: the model's own.",
)

device_option = click.option(
    "--device",
    type=DeviceType(),
    default="cpu",
    show_default=True,
    metavar="cpu|cuda:0",
    help="Device of the model.",
)


def batch_size_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make --batch-size, in images."""
    return click.option(
        "--batch-size",
        type=IntType(min=1),
        default=default,
        show_default=True,
        help="Images per batch.",
    )


def _folder_option(name: str, content: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{name}-dir",
        type=PathType(file=False),
        envvar=f"HARNESS_{name.upper()}",
        default=f"./{name}",
        metavar="DIR",
        show_envvar=True,
        help=f"Folder of {content}. Default: ./{name}.",
    )


data_option = _folder_option("data", "betons")


def refuse_given(names: Collection[str], reason: str, hint: str) -> None:
    """Refuse options of the current command that have no effect.

    Args:
        names: names under which click passes the options.
        reason: continues the sentence `--option has no effect`.
        hint: what to do instead.

    Raises:
        UserError: one of them is on the command line.
    """
    from writers.errors import UserError

    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and is_given(option.name):
            raise UserError(f"{option.opts[0]} has no effect {reason}.", hint)


def is_given(name: str) -> bool:
    """Return True if the option is on the command line of the current command."""
    context = click.get_current_context()
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def recipe_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add RECIPE and --set, passed as `recipe_name` and `overrides`."""
    argument = click.argument("recipe_name", metavar="RECIPE", shell_complete=completion.recipes)
    return argument(set_option(command))


def optional_recipe_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add RECIPE, which may be missing, and --set, passed as `recipe_name` and `overrides`."""
    argument = click.argument(
        "recipe_name", metavar="[RECIPE]", required=False, shell_complete=completion.recipes
    )
    return argument(set_option(command))


def folder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data-dir, --raw-dir and --runs-dir, passed as one argument `folders`."""

    def with_folders(
        *args: Any, data_dir: Path, raw_dir: Path, runs_dir: Path, **options: Any
    ) -> Any:
        return command(*args, folders=Folders.resolve(data_dir, raw_dir, runs_dir), **options)

    with_folders.__name__, with_folders.__doc__ = command.__name__, command.__doc__
    with_folders.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for name, content in (
        ("runs", "stages and reports"),
        ("raw", "raw downloads"),
        ("data", "betons"),
    ):
        with_folders = _folder_option(name, content)(with_folders)
    return with_folders
