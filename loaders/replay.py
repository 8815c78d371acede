"""One batch over and over: what a training step could do if data cost nothing."""

from collections.abc import Iterator

from loaders.backend import Batch


def replay(batch: Batch, num_batches: int) -> Iterator[Batch]:
    """The same batch `num_batches` times. A batch from a loader must be cloned first: its memory is filled again."""
    for _ in range(num_batches):
        yield batch
