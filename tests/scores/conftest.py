"""One thread for the linear algebra of these small matrices: on a busy machine many threads wait for each other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

sys.path.append(str(Path(__file__).parents[1] / "train"))  # tiny_stages

from tiny_stages import root  # noqa: F401


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield
