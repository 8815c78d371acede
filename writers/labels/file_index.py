"""Find files by the names in a table, which may lack folder and extension."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence

from writers.source import stem_of
from writers.split_names import split_of
from writers.text_names import normalized

DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class FileIndex:
    """Finds images by name.

    A name is searched for relative to the images' folder, first with its extension and then
    without. If there is no such image, the name is searched for relative to all folders below, and
    only one image may match.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """Index the paths of images, relative to their folder."""
        self._exact = {normalized(key): key for key in keys}
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._below: dict[str, list[str]] = defaultdict(list)
        for name, key in self._exact.items():
            file = name.rsplit("/", 1)[-1]
            self._by_stem[stem_of(name)].append(key)
            for short in {file, stem_of(file)}:
                self._below[short].append(key)

    def find(self, name: str, split: str | None) -> str:
        """Return the key of the image that a table calls `name`.

        Args:
            name: relative to the folder.
            split: if several images have the name, take the one in a folder of this split. None
                means that no split is preferred.

        Raises:
            ValueError: no image or several images match, or the path leaves the folder. The text is
                the reason.
        """
        path = name
        if not any(name in names for names in (self._exact, self._by_stem, self._below)):
            if name.startswith(("/", "\\")) or DRIVE.match(name):
                raise ValueError(f"{name} is an absolute path")
            path = posixpath.normpath(name.replace("\\", "/"))
        if path == ".." or path.startswith("../"):
            raise ValueError(f"{name} is outside of the folder")
        found = [self._exact[path]] if path in self._exact else self._by_stem.get(path, [])
        if not found:
            found = [
                key
                for key in self._below.get(path.rsplit("/", 1)[-1], ())
                if _ends_with(normalized(key), path)
            ]
        if len(found) > 1 and split is not None:
            found = [key for key in found if split in map(split_of, key.split("/")[:-1])] or found
        if not found:
            raise ValueError(f"there is no image {name}")
        if len(found) > 1:
            raise ValueError(f"{name} may be {found[0]} or {found[1]}")
        return found[0]


def _ends_with(key: str, path: str) -> bool:
    return f"/{key}".endswith(f"/{path}") or f"/{stem_of(key)}".endswith(f"/{path}")
