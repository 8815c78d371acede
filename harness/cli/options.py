"""The argument and option that every command on a recipe shares."""

from collections.abc import Callable
from typing import Any

import click

from harness.system.folders import Folders


def recipe_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """RECIPE and --set, as `recipe_name` and `overrides`."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting, such as pretrain.epochs=1; may be given again.",
    )(command)
    return click.argument("recipe_name", metavar="RECIPE")(command)


def folder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command --data-dir, --raw-dir and --runs-dir, handed on as one `folders` argument."""

    def with_folders(*args: Any, data_dir: str, raw_dir: str, runs_dir: str, **options: Any) -> Any:
        return command(*args, folders=Folders.resolve(data_dir, raw_dir, runs_dir), **options)

    with_folders.__name__, with_folders.__doc__ = command.__name__, command.__doc__
    with_folders.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for name, what in (
        ("runs", "stages and reports"),
        ("raw", "raw downloads"),
        ("data", "betons"),
    ):
        option = click.option(
            f"--{name}-dir",
            envvar=f"HARNESS_{name.upper()}",
            default=f"./{name}",
            metavar="DIR",
            show_envvar=True,
            help=f"Where {what} lie.",
        )
        with_folders = option(with_folders)
    return with_folders
