"""Betons that several tests read."""

from pathlib import Path

import pytest

from tests.helpers.tiny_betons import photo, write_beton

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
    """The same 36 images, odd sizes, 4 classes: as JPEG, as raw, and alternating."""
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
