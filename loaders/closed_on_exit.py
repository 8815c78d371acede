"""Base class of context managers that release their resources when the block ends."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class ClosedOnExit(ABC):
    """Context manager that calls `close` when its block ends."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
