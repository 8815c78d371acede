"""Shell completion of the names of recipes, datasets and subsets.

Enable it once per shell: eval "$(_HARNESS_COMPLETE=bash_source harness)", with zsh_source or
fish_source in these shells.
"""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

_RECIPE_EXTENSIONS = (".yaml", ".yml")


def recipes(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of recipes, and paths of YAML files and folders."""
    from harness.config.recipe_files import available

    return _matching(available(), incomplete) + _files(incomplete)


def datasets(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of datasets."""
    from writers import names

    return _matching(names.names("writers.datasets"), incomplete)


def subsets(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of subsets, and paths of YAML files and folders."""
    from writers.subset.lists import available

    return _matching(["all", *available()], incomplete) + _files(incomplete)


def _matching(known: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


def _files(incomplete: str) -> list[CompletionItem]:
    folder, _, beginning = incomplete.rpartition("/")
    parent = Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser()
    try:
        paths = sorted(parent.iterdir())
    except OSError:
        return []
    prefix = incomplete[: len(incomplete) - len(beginning)]
    return [
        CompletionItem(prefix + path.name + ("/" if path.is_dir() else ""))
        for path in paths
        if path.name.startswith(beginning)
        and not path.name.startswith(".")
        and (path.suffix in _RECIPE_EXTENSIONS or (incomplete != "" and path.is_dir()))
    ]
