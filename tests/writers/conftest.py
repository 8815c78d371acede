"""Small trees of real image files for the writers' tests."""

from pathlib import Path

import pytest

from tests.helpers.pictures import picture
from writers.dataset import SplitSettings, open_dataset
from writers.source import Source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with three classes in train/ and val/: 5 and 2 images of several sizes and kinds."""
    for split, number in (("train", 5), ("val", 2)):
        for label, name in enumerate(("cat", "dog", "owl")):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                image = picture(
                    100 * label + index,
                    100 + 10 * index,
                    140 - 9 * index,
                    "L" if index == 1 else "RGB",
                )
                image.save(folder / f"{split}_{index}.{'png' if index == 3 else 'jpg'}", quality=92)
    return tmp_path / "tree"


@pytest.fixture
def source(tree: Path) -> Source:
    return open_dataset("folder", tree, SplitSettings())
