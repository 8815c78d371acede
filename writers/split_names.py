"""Common names of the folders and files of splits."""

import re

# Split -> common names of its folder, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
SPLIT_FOLDER = re.compile(
    r"(?:(?:seg|data|dataset|images?|imgs?)[-_ .]*)?(?P<name>"
    + "|".join(name for names_of_split in SPLIT_NAMES.values() for name in names_of_split)
    + r")(?:[-_ .]*(?:set|data|dataset|images?|imgs?|split|folder))?(?:[-_ .]*(?:19|20)\d\d)?",
    re.IGNORECASE,
)
SPLITS = tuple(SPLIT_NAMES)
NO_SPLIT = ""  # split of the images of a source that has no splits


def split_of(folder: str) -> str | None:
    """Return the split of a folder name such as train, Validation or seg_test, or None."""
    match = SPLIT_FOLDER.fullmatch(folder)
    name = match["name"].lower() if match else ""
    return next((split for split, known in SPLIT_NAMES.items() if name in known), None)
