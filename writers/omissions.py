"""Count the files and records of a source that are not read, by reason, with the first names."""

from collections.abc import Iterable
from dataclasses import dataclass

from writers.text_names import printable

MAX_NAMES = 3  # names that are kept for each reason


@dataclass(frozen=True)
class Omission:
    """Files or records that are not read for one reason.

    Attributes:
        reason: description, such as "files that are not images by name or content".
        count: number of files or records.
        names: names of the first files or records in alphabetical order, at most MAX_NAMES.
    """

    reason: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Describe the omission in one line."""
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.reason}: {self.count:,} ({', '.join(self.names)}{more})"


class OmissionLog:
    """Count the files that a reader skips, by reason. Memory does not grow with the count."""

    def __init__(self) -> None:
        """Start without entries."""
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one file or record."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        names.append(printable(name))
        if len(names) > 64 * MAX_NAMES:  # sort seldom, because sorting takes time
            self._names[reason] = sorted(names)[:MAX_NAMES]

    def extend(self, omissions: Iterable[Omission], prefix: str = "") -> None:
        """Add the entries of another reader, with `prefix` before the names."""
        for omission in omissions:
            self._counts[omission.reason] = self._counts.get(omission.reason, 0) + omission.count
            self._names.setdefault(omission.reason, []).extend(
                prefix + name for name in omission.names
            )

    def omissions(self) -> list[Omission]:
        """Return the entries, sorted by reason."""
        return [
            Omission(reason, count, tuple(sorted(self._names[reason])[:MAX_NAMES]))
            for reason, count in sorted(self._counts.items())
        ]
