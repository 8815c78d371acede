"""The three folders that every command works in: betons, raw downloads, and stages with their reports."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class Folders:
    """All absolute, `~` expanded; none needs to exist yet."""

    data: Path  # $HARNESS_DATA: betons
    raw: Path  # $HARNESS_RAW: what people downloaded
    runs: Path  # $HARNESS_RUNS: stages, reports

    @classmethod
    def resolve(cls, data: str | Path, raw: str | Path, runs: str | Path) -> "Folders":
        return cls(
            *(Path(os.path.abspath(Path(folder).expanduser())) for folder in (data, raw, runs))
        )


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
