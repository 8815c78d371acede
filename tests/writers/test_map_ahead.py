"""Results of threads come in order, a limited number ahead, and their errors in their places."""

import threading
import time

import pytest

from writers.map_ahead import map_ahead


def test_results_are_in_the_order_of_the_items():
    def slow_if_even(item: int) -> int:
        time.sleep(0.01 * (item % 2 == 0))
        return item**2

    squares = map_ahead(slow_if_even, range(20), num_threads=4, max_pending=3, name="square")
    assert list(squares) == [item**2 for item in range(20)]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_only_a_few_results_are_computed_ahead(num_threads: int):
    begun, lock = [], threading.Lock()

    def note(item: int) -> int:
        with lock:
            begun.append(item)
        return item

    results = map_ahead(note, range(100), num_threads=num_threads, max_pending=4, name="note")
    assert not begun  # nothing starts before the first result is requested
    for used in range(10):
        assert next(results) == used
        assert max(begun) <= used + 4
    results.close()
    assert max(begun) <= 9 + 4


def test_an_error_is_raised_in_its_place_and_ends_the_threads():
    def inverse(item: int) -> float:
        return 1 / item

    results = map_ahead(inverse, [2, 1, 0, 4], num_threads=2, max_pending=3, name="inverse")
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [one for one in threading.enumerate() if one.name.startswith("inverse")]


def test_work_that_has_not_started_is_dropped_at_the_end():
    begun, may_end = [], threading.Event()

    def wait(item: int) -> int:
        begun.append(item)
        assert item == 0 or may_end.wait(240)
        return item

    results = map_ahead(wait, range(50), num_threads=1, max_pending=20, name="wait")
    assert next(results) == 0
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert len(begun) <= 2
    assert not [one for one in threading.enumerate() if one.name.startswith("wait")]
