"""Compute results in threads ahead of their use, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    max_pending: int,
    name: str,
) -> Generator[Result, None, None]:
    """Yield `work(item)` of each item in order, while threads compute the next results.

    If the generator is closed early, work that has not started is dropped. Threads end with the
    generator.

    Args:
        work: called in a thread. The first error is raised in the place of its result.
        items: read in the calling thread, only as far as results are computed ahead.
        num_threads: threads.
        max_pending: results that are computed or being computed while one is used, at least 1.
        name: beginning of the threads' names.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, name)
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > max_pending:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
