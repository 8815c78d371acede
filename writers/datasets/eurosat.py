"""EuroSAT: 27,000 satellite images of ten kinds of land, 64 x 64.

Reads 2750/<class>/*.jpg or EuroSAT.zip.

There is no official split. VTAB takes 60, 20 and 20 % in the file order of TensorFlow Datasets.
Here splits of the same sizes are drawn class by class, with a fixed seed.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.layout_search import find, shares
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="eurosat",
    title="EuroSAT (RGB)",
    metric="top1",
    num_classes=10,
    protocols=("vtab",),
    split_sizes={"train": 16_200, "val": 5_400, "test": 5_400},
    license="MIT",
    citation=(
        "Helber et al. 2019, EuroSAT: a novel dataset and deep learning benchmark for land use "
        "and land cover"
    ),
    where="https://github.com/phelber/eurosat: EuroSAT.zip (RGB), as it is or unpacked",
    downloads=(
        Download(
            "EuroSAT.zip",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
            "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "md5:c8fa014336c82ac7804f0398fcb19387",
        ),
    ),
)

CLASSES = [
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return open_source(
        find(path, "EuroSAT.zip") or path, shares(0.2, 0.2), name="eurosat", classes=CLASSES
    )
