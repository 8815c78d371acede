"""Rules that decide which folders of a tree are splits and which are classes."""

from dataclasses import dataclass
from typing import Literal

from writers.split_names import split_of

SplitFolders = Literal["auto", "never"]


@dataclass(frozen=True)
class FolderRules:
    """Rules that decide which folders of a tree are splits and which are classes.

    Attributes:
        split_folders: "auto" takes folders named train, val, test or a synonym as splits; "never"
            takes them as classes.
        class_level: level of the class folders; 1 is directly below the splits, or at the top if
            there are no splits. Folders on other levels do not affect the class. None means 1, but
            then a tree whose top folders all have the same subfolders is refused.
    """

    split_folders: SplitFolders = "auto"
    class_level: int | None = None

    @property
    def is_default(self) -> bool:
        """Return True if these are the default rules, which use only the names of folders."""
        return self == BY_NAME

    def split_of(self, folder: str) -> str | None:
        """Return the split that a folder's name means, or None if the folder is not a split."""
        return split_of(folder) if self.split_folders == "auto" else None

    def class_and_image(self, path: str) -> tuple[str, str] | None:
        """Return the class of an image and the rest of its path, without the class folder.

        Args:
            path: path below the split.

        Returns:
            None if the image is not in a class folder.
        """
        *folders, image = path.split("/")
        at = (self.class_level or 1) - 1
        if at >= len(folders):
            return None
        return folders[at], "/".join([*folders[:at], *folders[at + 1 :], image])


BY_NAME = FolderRules()  # the default: only the names of folders are used
