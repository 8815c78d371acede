"""Make the error for images that cannot be read; if there are many, list all in a file."""

from collections.abc import Sequence
from pathlib import Path

from writers.errors import UserError

MAX_OFFENDERS = 20  # unreadable images listed in a message


def unreadable_list(out_file: Path) -> Path:
    """Return the path of the file that lists more than MAX_OFFENDERS unreadable images."""
    return out_file.with_name(f"{out_file.name}.unreadable.txt")


def unreadable(offenders: Sequence[str], out_file: Path) -> UserError:
    """Make the error that lists unreadable images; if there are many, write all to a file."""
    lines = sorted(offenders)
    shown = "\n  ".join(lines[:MAX_OFFENDERS])
    if len(lines) > MAX_OFFENDERS:
        unreadable_list(out_file).write_text("\n".join(lines) + "\n")
        shown += f"\n  ... all of them are listed in {unreadable_list(out_file)}"
    plural = "images" if len(lines) > 1 else "image"
    return UserError(
        f"{len(lines):,} {plural} cannot be read:\n  {shown}",
        "Repair or remove them, or leave them out with harness write-beton --on-error skip, which "
        "lists them in the manifest.",
    )
