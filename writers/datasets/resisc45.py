"""RESISC45: 31,500 aerial images of 45 kinds of scenes, 256 x 256.

Reads NWPU-RESISC45/<class>/*.jpg, unpacked from the official RAR archive.

There is no official split. VTAB takes 60, 20 and 20 % in the file order of TensorFlow Datasets.
Here splits of the same sizes are drawn class by class, with a fixed seed.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.layout_search import shares
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="resisc45",
    title="NWPU-RESISC45",
    metric="top1",
    num_classes=45,
    protocols=("vtab",),
    split_sizes={"train": 18_900, "val": 6_300, "test": 6_300},
    license="not stated by its authors; research",
    citation=(
        "Cheng, Han and Lu 2017, Remote sensing image scene classification: benchmark and state "
        "of the art"
    ),
    where=(
        "NWPU-RESISC45.rar, linked from https://gcheng-nwpu.github.io, unpacked: "
        "NWPU-RESISC45/<class>/*.jpg"
    ),
    downloads=(Download("NWPU-RESISC45"),),
)

CLASSES = [
    "airplane",
    "airport",
    "baseball_diamond",
    "basketball_court",
    "beach",
    "bridge",
    "chaparral",
    "church",
    "circular_farmland",
    "cloud",
    "commercial_area",
    "dense_residential",
    "desert",
    "forest",
    "freeway",
    "golf_course",
    "ground_track_field",
    "harbor",
    "industrial_area",
    "intersection",
    "island",
    "lake",
    "meadow",
    "medium_residential",
    "mobile_home_park",
    "mountain",
    "overpass",
    "palace",
    "parking_lot",
    "railway",
    "railway_station",
    "rectangular_farmland",
    "river",
    "roundabout",
    "runway",
    "sea_ice",
    "ship",
    "snowberg",
    "sparse_residential",
    "stadium",
    "storage_tank",
    "tennis_court",
    "terrace",
    "thermal_power_station",
    "wetland",
]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return open_source(path, shares(0.2, 0.2), name="resisc45", classes=CLASSES)
