"""The argument and option that every command on a recipe shares."""

from collections.abc import Callable
from typing import Any

import click


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
