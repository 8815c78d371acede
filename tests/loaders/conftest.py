"""`.beton` files that several tests read, and the compiled numba kernel."""

import fcntl
from pathlib import Path

import numpy as np
import pytest

from loaders import kernel
from loaders.ffcv_parts import LIBRARY
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.beton.encoding import JPEG

SIZES = [
    (60, 40),
    (40, 60),
    (33, 47),
    (128, 128),
    (1, 50),
    (50, 1),
    (1, 1),
    (17, 200),
    (64, 64),
    (97, 31),
    (20, 20),
    (75, 50),
]


@pytest.fixture(scope="session")
def betons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write 36 images of odd sizes in 4 classes to three files; return their paths by name.

    The images are stored as JPEG in `jpeg`, raw in `raw`, and in turn raw and as JPEG in `mixed`.
    """
    folder = tmp_path_factory.mktemp("betons")
    images = [photo(*SIZES[number % len(SIZES)], seed=number) for number in range(36)]
    labels = [number % 4 for number in range(36)]
    stored = {
        "jpeg": [False] * 36,
        "raw": [True] * 36,
        "mixed": [number % 2 == 0 for number in range(36)],
    }
    return {
        name: write_beton(folder / f"{name}.beton", images, labels, raw=raw)
        for name, raw in stored.items()
    }


@pytest.fixture(scope="session")
def numba_is_compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the numba kernel, or load it from the cache on disk.

    If a test run has several processes, one compiles, and the others wait for it.
    """
    blob = jpeg(photo(16, 16, seed=0))
    with (tmp_path_factory.getbasetemp().parent / "numba.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        has_error = np.ones(1, bool)
        kernel.open_kernel(LIBRARY, "numba")(
            np.frombuffer(blob, np.uint8),
            np.array([0]),
            np.array([len(blob)]),
            np.array([JPEG], np.uint8),
            np.array([16]),
            np.array([16]),
            np.array([[0, 0, 16, 16]]),
            np.array([False]),
            np.empty((1, 8, 8, 3), np.uint8),
            has_error,
            np.empty((0, 256), np.float16),
        )
    assert not has_error.any()
