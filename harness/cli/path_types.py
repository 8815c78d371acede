"""Types of options and arguments that are paths.

Pipes and devices are refused: reading a pipe may block, reading a device may never end, and a
command cannot replace either by a file.
"""

import os
from pathlib import Path
from typing import Any

import click

from writers.regular_file import other_kind


class PathType(click.Path):
    """Path of an existing or a new file or folder, as `pathlib.Path`."""

    def __init__(self, *, exists: bool = False, file: bool = True, folder: bool = True) -> None:
        """Choose what is accepted.

        Args:
            exists: the path must exist.
            file: a file is accepted.
            folder: a folder is accepted.
        """
        super().__init__(exists=exists, file_okay=file, dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse pipes, sockets and devices."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        kind = other_kind(path)
        if kind is not None and kind != "a folder":
            wanted = {(True, False): "file", (False, True): "folder"}.get(
                (self.file_okay, self.dir_okay), "file or folder"
            )
            self.fail(f"'{value}' is {kind}, not a {wanted}.", param, ctx)
        return path
