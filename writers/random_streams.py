"""Random numbers as pure functions: of a seed, what they are for, and the sample's id. No generator carries state.

An id is made from what an image is called, not from where it lies, so a folder tree, an archive and a copied beton of the
same images draw the same order, the same splits and the same crops. Mixed by splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import hashlib
from collections.abc import Iterable

import numpy as np

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment


def sample_ids(names: Iterable[str]) -> np.ndarray:
    """uint64 [N]: the first 8 bytes of the sha256 of each name (`<class>/<image>`), little endian."""
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names],
        np.uint64,
    )


def draw(seed: int, purpose: str, ids: np.ndarray) -> np.ndarray:
    """A random word for each sample: uint64 [N]. Draws for different purposes have nothing to do with each other."""
    return random_words(seed ^ int.from_bytes(purpose.encode()[:8], "big"), 0, ids, 1)[:, 0]


def random_words(seed: int, epoch: int, ids: np.ndarray, count: int) -> np.ndarray:
    """`count` random words for each of the samples with these ids: uint64 [B, count]."""
    return words_at(seed, epoch, ids, np.arange(count))


def words_at(seed: int, epoch: int, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The words with these numbers (int64 [W], counted from 0) of each sample: uint64 [B, W]."""
    key = np.array([seed & MASK], np.uint64)
    key = _mix(_mix(key + np.uint64(GAMMA)) + np.uint64(epoch & MASK))
    steps = (np.asarray(numbers, np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    streams = _mix(key + (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA))
    return _mix(streams[:, None] + steps[None, :])


def uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1): the upper 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


def _mix(words: np.ndarray) -> np.ndarray:
    """splitmix64's output function: a bijection of 64-bit words in which each input bit moves half the output bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
