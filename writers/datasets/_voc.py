"""Image sets of PASCAL VOC: text files that list the images of a split.

A file may also belong to one class. Its lines then end in a mark: 1 if the class is present, 0 if
all its objects are difficult to recognize, -1 if it is absent.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from writers.errors import UserError
from writers.formats.files import Files

AGAIN = "Download the archive again."

Key = TypeVar("Key", str, tuple[str, int])  # name of an image; or image and number of an object


class Voc:
    """Files of a VOC release. `prefix` is the path to them, such as `VOCdevkit/VOC2007/`."""

    def __init__(self, files: Files, first_list: str, path: Path, accepted: str) -> None:
        """Find the prefix.

        Args:
            files: files of the release.
            first_list: path, without the prefix, of a list that every release has.
            path: folder or archive of the release, for messages.
            accepted: description of the accepted layouts, for hints in messages.

        Raises:
            UserError: there is no such list.
        """
        self.files, self.names, self.accepted = files, set(files.names()), accepted
        self._path = path
        found = next((name for name in sorted(self.names) if name.endswith(first_list)), None)
        if found is None:
            raise UserError(f"{path} has no {first_list}.", accepted)
        self.prefix = found.removesuffix(first_list)

    def read_marks(
        self, lists: Sequence[str], parse: Callable[[Sequence[str]], tuple[Key, int]], what: str
    ) -> dict[Key, tuple[int, ...]]:
        """Read the lists of all classes of a split.

        Args:
            lists: paths of the lists, without the prefix, in label order.
            parse: returns key and mark from a line's fields. If the fields are not as expected, it
                raises ValueError with a description of the expected line.
            what: noun for the keys in messages, such as "images".

        Returns:
            Key -> marks in label order; keys are sorted.

        Raises:
            UserError: a list is missing or damaged, or the lists have different keys.
        """
        by_list = [self._read_list(name, parse) for name in lists]
        for name, marks in zip(lists, by_list, strict=True):
            if marks.keys() != by_list[0].keys():
                first = lists[0].rsplit("/", 1)[-1]
                raise UserError(f"{name} lists other {what} than {first}.", self.accepted)
        return {key: tuple(marks[key] for marks in by_list) for key in sorted(by_list[0])}

    def read_images(self, name: str) -> list[str]:
        """Read the list of images `name` (a path without the prefix), one per line; sorted.

        Raises:
            UserError: the list is missing, empty or damaged.
        """
        marks = self._read_list(name, _parse_image)
        if not marks:
            raise UserError(f"{self.files.where(self.prefix + name)} lists no image.", AGAIN)
        return sorted(marks)

    def _read_list(
        self, name: str, parse: Callable[[Sequence[str]], tuple[Key, int]]
    ) -> dict[Key, int]:
        file = self.prefix + name
        if file not in self.names:
            raise UserError(f"{self._path}: {file} is missing.", self.accepted)
        marks: dict[Key, int] = {}
        lines = self.files.read(file).decode("utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if not (fields := line.split()):
                continue
            where = f"{self.files.where(file)}, line {number}"
            try:
                key, mark = parse(fields)
            except ValueError as error:
                raise UserError(f"{where}: '{line[:80]}' is not {error}.", AGAIN) from error
            if key in marks:
                twice = " ".join(fields[:-1] or fields)
                raise UserError(f"{where}: {twice} is listed twice.", AGAIN)
            marks[key] = mark
        return marks

    def reason(self, error: UserError, name: str) -> str:
        """Return an error's message with the file's name instead of its full path.

        Args:
            error: error about a file.
            name: path of the file without the prefix.
        """
        return error.message.replace(self.files.where(self.prefix + name), name)

    def check_present(self, wanted: Sequence[str], what: str) -> None:
        """Raise UserError if one of the `wanted` files (paths without the prefix) is missing."""
        if missing := [name for name in wanted if self.prefix + name not in self.names]:
            raise UserError(
                f"{self._path}: {len(missing)} of the {len(wanted)} {what} are missing, such as "
                f"{missing[0]}.",
                self.accepted,
            )


def _parse_image(fields: Sequence[str]) -> tuple[str, int]:
    """Parse a line such as `000012`; return the image and a mark that is not used."""
    if len(fields) != 1 or "/" in fields[0]:
        raise ValueError("an image")
    return fields[0], 1
