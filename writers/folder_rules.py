"""Rules that decide which folders of a tree are splits and which are classes."""

from dataclasses import dataclass
from typing import Literal

from writers.split_names import split_of

SplitFolders = Literal["auto", "never"]


@dataclass(frozen=True)
class FolderRules:
    """How the folders of a tree are read.

    Attributes:
        split_folders: auto: folders named train, val, test and the like are splits. never: they are
            classes.
        class_level: level of the class folders; 1 is directly below the splits, or at the top
            without splits. Folders of other levels are ignored. None means 1, and refuses a tree
            whose top folders all have the same subfolders.
    """

    split_folders: SplitFolders = "auto"
    class_level: int | None = None

    @property
    def is_default(self) -> bool:
        """Return True if names of folders decide everything."""
        return self == BY_NAME

    def split_of(self, folder: str) -> str | None:
        """Return the split of a folder, or None."""
        return split_of(folder) if self.split_folders == "auto" else None

    def class_and_image(self, path: str) -> tuple[str, str] | None:
        """Return the class of an image and its path without the class; None outside of classes.

        Args:
            path: path below the split.
        """
        *folders, image = path.split("/")
        at = (self.class_level or 1) - 1
        if at >= len(folders):
            return None
        return folders[at], "/".join([*folders[:at], *folders[at + 1 :], image])


BY_NAME = FolderRules()  # names of folders decide everything
