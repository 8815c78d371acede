"""Types of options and arguments that are paths.

Pipes, sockets and devices are refused: reading a pipe may block, and reading a device may never
end. Commands replace the files that they write, which would remove a pipe or device. Empty paths
are refused, because they stand for the working directory: `--out "$OUT"` would write there if OUT
is unset.
"""

import os
from pathlib import Path
from typing import Any

import click

from harness.system import os_errors
from writers.regular_file import other_kind


class PathType(click.Path):
    """Path of an existing or a new file or folder, as `pathlib.Path`."""

    def __init__(
        self,
        *,
        exists: bool = False,
        file: bool = True,
        folder: bool = True,
        written: bool = False,
    ) -> None:
        """Choose what is accepted.

        Args:
            exists: the path must exist.
            file: a file is accepted.
            folder: a folder is accepted.
            written: the command creates the path, or a file in it. A place that takes no new files
                is refused at once, not after hours of work.
        """
        super().__init__(exists=exists, file_okay=file, dir_okay=folder, path_type=Path)
        self.written = written

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse pipes, sockets, devices and, if `written`, paths that cannot be written."""
        wanted = {(True, False): "file", (False, True): "folder"}.get(
            (self.file_okay, self.dir_okay), "file or folder"
        )
        if not str(value):
            self.fail(f"an empty text is not the name of a {wanted}.", param, ctx)
        kind = other_kind(Path(value)) or ("a file" if Path(value).is_file() else None)
        accepted = {"a file"} if self.file_okay else set()
        accepted |= {"a folder"} if self.dir_okay else set()
        if kind is not None and kind not in accepted:
            betons = ", ".join(str(file) for file in sorted(Path(value).glob("*.beton"))[:3])
            inside = f" Betons in it: {betons}." if betons else ""
            self.fail(f"'{value}' is {kind}, not a {wanted}.{inside}", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if self.written:
            check_writable(path)
        return path


def check_writable(path: Path) -> None:
    """Create an unnamed temporary file in the folder `path`, or in its closest existing parent.

    Raises:
        UserError: the file system refuses the file, as /proc and read-only mounts do. An error
            without a known explanation is raised as it is.
    """
    from tempfile import TemporaryFile

    try:
        place = path.expanduser().absolute()
        folder = next(part for part in (place, *place.parents) if part.is_dir())
        with TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # instead of the temporary name
        raise os_errors.explain(error) or os_errors.of_path(error) or error from error
