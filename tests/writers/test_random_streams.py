"""Draws depend only on seed, purpose and id, and are uniform and independent."""

import numpy as np

from writers.random_streams import random_bits, random_words, sample_ids, uniform

IDS = sample_ids(f"cat/{number}" for number in range(4000))


def test_ids_depend_only_on_names():
    # sha256 of "abc" from FIPS 180-4, B.1.
    assert int(sample_ids(["abc"])[0]) == int.from_bytes(
        bytes.fromhex("ba7816bf8f01cfea"), "little"
    )
    assert len(np.unique(IDS)) == len(IDS)


def test_splitmix64_as_published():
    """Compare the random words of a sample with Vigna's reference code."""
    key = int(random_words(0, 0, np.array([0], np.uint64), 1)[0, 0])
    assert key == int(random_words(0, 0, np.array([0, 7], np.uint64), 5)[0, 0])
    from writers.random_streams import GAMMA, _mix

    states = (np.arange(1, 4, dtype=np.uint64)) * np.uint64(GAMMA)
    assert [hex(word) for word in _mix(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_draws_are_uniform_and_purposes_independent():
    order, split = uniform(random_bits(0, "order", IDS)), uniform(random_bits(0, "split", IDS))
    assert order.min() >= 0 and order.max() < 1
    # len(IDS) draws: at least three standard errors of a fraction and of a correlation
    for share in (0.1, 0.3, 0.9):
        assert abs((order < share).mean() - share) < 0.03
    assert abs(np.corrcoef(order, split)[0, 1]) < 0.06
    assert abs(np.corrcoef(order, uniform(random_bits(1, "order", IDS)))[0, 1]) < 0.06
    assert (order == uniform(random_bits(0, "order", IDS))).all()
    assert (order[5:9] == uniform(random_bits(0, "order", IDS[5:9]))).all()
