"""Every instruction set resizes rows of extreme levels as plain C does, at every scale."""

import numpy as np
import pytest

from loaders import kernel_c
from writers.beton.encoding import RAW

pytestmark = pytest.mark.skipif(
    kernel_c.library() is None, reason="the package's C parts were not built"
)
HEIGHT = 12
# Sums of weights and levels are largest where 0 and 255 stand next to each other in any order.
IMAGE = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (HEIGHT, 470, 3))


def resized(isa: str, widths: np.ndarray, resolution: int, interpolation: str) -> np.ndarray:
    """Resize one crop of IMAGE for each width, uint8 [N, R, R, 3]; every second one is mirrored."""
    n = len(widths)
    output, has_error = np.zeros((n, resolution, resolution, 3), np.uint8), np.ones(n, bool)
    zeros = np.zeros(n, np.int64)
    boxes = np.stack([np.minimum(np.arange(n), 470 - widths), zeros, widths, zeros + HEIGHT], 1)
    kernel_c.open_kernel(isa)(
        IMAGE.reshape(-1),
        zeros,
        zeros + IMAGE.size,
        np.full(n, RAW, np.uint8),
        zeros + 470,
        zeros + HEIGHT,
        boxes,
        np.arange(n) % 2 == 1,
        output,
        has_error,
        np.empty((0, 256), np.float16),
        interpolation=interpolation,
    )
    assert not has_error.any()
    return output


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("resolution", "widths"),
    [
        (64, range(1, 150)),
        (33, range(1, 80)),
        (224, [1, 2, 3, 111, 223, 224, 225, 226, 300, *range(405, 470, 4)]),
    ],
)
def test_sums_of_extreme_levels_do_not_overflow(interpolation, resolution, widths):
    widths = np.array(widths)
    expected = resized("scalar", widths, resolution, interpolation)
    assert len(np.unique(expected)) > 100
    for isa in kernel_c.instruction_sets():
        found = resized(isa, widths, resolution, interpolation)
        different = np.flatnonzero((found != expected).any(axis=(1, 2, 3)))
        assert not len(different), (isa, widths[different])
