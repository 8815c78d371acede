"""Refuse members of an archive whose names or sizes an image cannot have."""

from pathlib import Path

from writers.errors import UserError
from writers.formats.image_formats import MAX_IMAGE_BYTES
from writers.text_names import MAX_PATH


def check_name(archive: Path, name: str) -> None:
    """Raise UserError if a name is longer than the path of a file can be."""
    if len(name) > MAX_PATH:
        raise UserError(
            f"{archive}: a name has {len(name):,} characters, more than the path of a file.",
            "Do not trust this archive.",
        )


def check_size(archive: Path, name: str, num_bytes: int) -> None:
    """Raise UserError if a member is larger than MAX_IMAGE_BYTES."""
    if num_bytes > MAX_IMAGE_BYTES:
        raise UserError(
            f"{archive}: {name} has {num_bytes:,} bytes; an image of more than "
            f"{MAX_IMAGE_BYTES:,} is not read.",
            "Remove it from the archive.",
        )


def twice(archive: Path, name: str) -> UserError:
    """Make the error for an archive that contains a name twice."""
    return UserError(f"{archive} has {name} twice.", "It is unclear which one to use; remove one.")


def outside(archive: Path, name: str) -> UserError:
    """Make the error for a name that points outside the archive, such as `../1.jpg`."""
    return UserError(f"{archive} names a file outside itself: {name}", "Do not trust this archive.")
