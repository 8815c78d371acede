"""Context managers that release what they hold when their block ends."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class ClosedOnExit(ABC):
    """Context manager that calls `close` when its block ends."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
