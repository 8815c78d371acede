"""Import the parts of FFCV 1.0.2 that the loaders use, without FFCV's import side effects.

1. `ffcv.fields.rgb_image` fills a numba dictionary with two entries, which takes 1.7 to 3.5 s of
   compilation in every process (2 cores of an AMD EPYC, numba 0.68). FFCV only reads that
   dictionary from Python, so a plain dict works.
2. `ffcv.pipeline.compiler` sets the thread counts of torch and numba to 1 for the whole process.
3. `ffcv.loader.epoch_iterator` initializes CUDA, after which forked children cannot use a GPU, and
   creates streams even for loaders on a CPU. Here its flag for CUDA stays off; `loaders.epoch`
   creates the streams.

FFCV's own loaders can run in the same process. They set `mutable` to False on numba's types of
writable arrays, which all functions share. This changes the hash of every signature with such an
array, and numba no longer finds these signatures: the next call of a compiled function with a new
signature raises KeyError. Here FFCV's loaders get types of read-only arrays from the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numba
import numba.typed
import torch


@contextmanager
def _without_side_effects() -> Iterator[None]:
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        with (
            patch.object(numba.typed, "Dict", dict),
            patch.object(torch.cuda, "is_available", lambda: False),
        ):
            yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)


with _without_side_effects():
    import ffcv._libffcv
    from ffcv import fields, transforms
    from ffcv.loader import epoch_iterator
    from ffcv.memory_managers import os_cache
    from ffcv.memory_managers.base import MemoryContext
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.graph import Graph
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec
    from ffcv.pipeline.state import State

LIBRARY = Path(ffcv._libffcv.__file__)  # FFCV's extension module, linked to libturbojpeg
EpochIterator = epoch_iterator.EpochIterator


class _ReadOnlyBytes:
    """numba.uint8, but its arrays are read-only."""

    def __getitem__(self, axes: slice) -> numba.types.Array:
        return numba.uint8[axes].copy(readonly=True)


os_cache.nb = SimpleNamespace(uint8=_ReadOnlyBytes(), uint64=numba.uint64, types=numba.types)

__all__ = [
    "LIBRARY",
    "AllocationQuery",
    "EpochIterator",
    "Graph",
    "MemoryContext",
    "Operation",
    "PipelineSpec",
    "State",
    "fields",
    "transforms",
]
