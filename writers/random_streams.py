"""Random numbers without state: pure functions of a seed, a purpose and a sample's id.

An id is derived from an image's name, not its location. A folder tree, an archive and a copied
`.beton` file of the same images therefore draw the same order, splits and crops. The mixing
function is splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import hashlib
from collections.abc import Iterable

import numpy as np

MASK = 2**64 - 1  # the lower 64 bits
GAMMA = 0x9E3779B97F4A7C15  # increment of splitmix64's state


def sample_ids(names: Iterable[str]) -> np.ndarray:
    """Return the ids of samples, uint64 [N], by name (`<class>/<image>`).

    An id is the first 8 bytes of the sha256 of the name, little endian.
    """
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names],
        np.uint64,
    )


def random_bits(seed: int, purpose: str, ids: np.ndarray) -> np.ndarray:
    """Return a random word per sample, uint64 [N]. Draws for different purposes are independent."""
    return random_words(seed_of(seed, purpose), 0, ids, 1)[:, 0]


def seed_of(seed: int, purpose: str) -> int:
    """Combine a seed with a purpose. Only the first 8 bytes of the purpose count."""
    return seed ^ int.from_bytes(purpose.encode()[:8], "big")


def random_words(seed: int, epoch: int, ids: np.ndarray, count: int) -> np.ndarray:
    """Return `count` random words for each of `ids` (uint64 [B]), uint64 [B, count]."""
    return words_at(seed, epoch, ids, np.arange(count))


def words_at(seed: int, epoch: int, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the words with indices `numbers` (int64 [W], from 0) per sample, uint64 [B, W]."""
    key = np.array([seed & MASK], np.uint64)
    key = _mix(_mix(key + np.uint64(GAMMA)) + np.uint64(epoch & MASK))
    steps = (np.asarray(numbers, np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    streams = _mix(key + (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA))
    return _mix(streams[:, None] + steps[None, :])


def uniform(words: np.ndarray) -> np.ndarray:
    """Convert words to float64 in [0, 1) by their upper 53 bits."""
    return (words >> np.uint64(11)) * 2.0**-53


def _mix(words: np.ndarray) -> np.ndarray:
    """Apply splitmix64's output function, a bijection of 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
