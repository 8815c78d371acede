"""Choose the order of an epoch as a pure function of (seed, epoch, sample ids).

`loaders/sampling.py` chooses which samples a weighted epoch draws.
"""

import numpy as np

from writers.random_streams import random_words

BLOCK_BYTES = 2**23  # file bytes that are read together: FFCV's page size
WINDOW_BLOCKS = 64  # blocks per window; a window of 512 MiB is in memory at a time

_ORDER_KEY = 0x6F72646572  # changes the seed, so that order and crops use unrelated streams
_BLOCK_KEY = 0x626C6F636B


def random_order(seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """Return a random permutation of samples, int64 [N].

    The samples of a subset keep the relative order that they have in the full set.

    Args:
        seed: seed of the plan.
        epoch: number of the epoch.
        ids: uint64 [N].
    """
    words = random_words(seed ^ _ORDER_KEY, epoch, ids, 1)
    return np.argsort(words[:, 0], kind="stable")


def quasi_random_order(seed: int, epoch: int, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a permutation, int64 [N], that needs few pages of the file in memory at a time.

    The blocks of the file are shuffled and grouped into windows of WINDOW_BLOCKS; samples are
    shuffled within a window. The writer stores samples in random order, so a window has a random
    selection of samples from all classes.

    Args:
        seed: seed of the plan.
        epoch: number of the epoch.
        ids: uint64 [N].
        offsets: int64 [N], byte offsets of the images.
    """
    blocks, block_of = np.unique(offsets // BLOCK_BYTES, return_inverse=True)
    place = np.empty(len(blocks), np.int64)
    place[np.argsort(random_words(seed ^ _BLOCK_KEY, epoch, blocks, 1)[:, 0], kind="stable")] = (
        np.arange(len(blocks))
    )
    words = random_words(seed ^ _ORDER_KEY, epoch, ids, 1)[:, 0]
    return np.lexsort((words, place[block_of] // WINDOW_BLOCKS))
