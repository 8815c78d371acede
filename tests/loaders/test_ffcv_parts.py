"""FFCV's own loaders leave numba's types as they are."""

import numba
import numpy as np
from ffcv.memory_managers import OSCacheManager

import loaders.ffcv_parts  # noqa: F401  this import is tested


def test_ffcv_s_loaders_change_no_type_that_other_functions_have():
    first = numba.njit(lambda array: array[0])
    assert first(np.arange(3, dtype=np.uint8)) == 0
    writable = numba.uint8[::1]
    manager = object.__new__(OSCacheManager)
    file, *columns = manager.state_type.types
    assert not file.mutable and columns == [numba.uint64[::1]] * 2
    assert writable.mutable and writable is numba.uint8[::1]
    assert first.nopython_signatures[0].args == (writable,)

    read = manager.compile_reader()
    stored = np.arange(20, dtype=np.uint8)
    stored.flags.writeable = False
    state = (stored, np.array([0, 12], np.uint64), np.array([12, 8], np.uint64))
    assert read(np.uint64(12), state).tolist() == list(range(12, 20))
    assert first.nopython_signatures[0].args == (writable,)
