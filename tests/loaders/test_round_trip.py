"""`.beton` files of every encoding from this project's writer return the original images."""

import numpy as np
import pytest
import torch

from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, photo
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.source import Example, Source
from writers.subset.spec import Subset

IMAGES = {
    f"train/{'abc'[number % 3]}/{number}.jpg": photo(120, 100, seed=number) for number in range(12)
}


class Memory:
    """The images as in-memory JPEG files."""

    def names(self) -> list[str]:
        return list(IMAGES)

    def read(self, name: str) -> bytes:
        return jpeg(IMAGES[name], quality=98)

    def where(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(format="jpeg", jpeg_quality=98),
        Encoding(format="raw"),
        Encoding(format="passthrough"),
        Encoding(format="mixed", compress_probability=0.5, jpeg_quality=98),
    ],
    ids=lambda encoding: encoding.format,
)
@pytest.mark.parametrize("backend", ["ffcv", "reference"])
def test_loaded_samples_equal_the_written_ones(tmp_path, encoding, backend):
    examples = [Example(name, "abc".index(name.split("/")[1]), name) for name in IMAGES]
    source = Source("photos", "photos", ["a", "b", "c"], {"train": examples}, Memory())
    write_split(
        source,
        "train",
        Subset("without_b", ("a", "c")),
        encoding,
        tmp_path / "train.beton",
        num_threads=1,
    )

    plan = LoaderPlan(tmp_path / "train.beton", 5, 100, center_fraction=1.0, backend=backend)
    with open_loader(plan) as loader:
        assert loader.classes == ("a", "c") and loader.num_samples == 8
        batches = [(images.clone(), labels.clone()) for images, labels in loader.epoch(0)]
    loaded = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy().astype(int)
    labels = torch.cat([labels for _, labels in batches]).tolist()

    # The writer shuffles images, so that each loaded image, the middle of an original, is compared
    # with the middles of all originals.
    middles = {name: image[:, 10:110] for name, image in IMAGES.items()}
    for image, label in zip(loaded, labels, strict=True):
        differences = {name: np.abs(image - middle).mean() for name, middle in middles.items()}
        nearest = min(differences, key=differences.__getitem__)
        # Mean differences in levels of 0 to 255; JPEG causes about 2.
        assert differences.pop(nearest) < 4 < 12 < min(differences.values())
        assert nearest.split("/")[1] == "ac"[label]
        middles.pop(nearest)
    assert {name.split("/")[1] for name in middles} == {"b"}
