"""KITTI, distance of the closest vehicle: four classes. VTAB's task `closest_vehicle_distance`.

The classes are three ranges of distance, and images without a vehicle. Reads
data_object_image_2.zip, data_object_label_2.zip and devkit_object.zip, packed or unpacked. Frames
of one drive look alike, so drives are split instead of frames, as in TensorFlow Datasets (kitti.py,
3.1): a tenth of the drives is test and a tenth val, drawn by numpy with seed 123. The devkit maps
frames to drives. Bounding boxes are ignored.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.files import Files, JoinedFiles, open_files
from writers.formats.layout_search import find
from writers.source import Example, Source, SplitSettings, open_source

URL = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
IMAGES, LABELS, DEVKIT = "data_object_image_2.zip", "data_object_label_2.zip", "devkit_object.zip"

SPEC = DatasetSpec(
    name="kitti_distance",
    title="KITTI, distance of the closest vehicle",
    metric="top1",
    num_classes=4,
    protocols=("vtab",),
    split_sizes={"train": 6_347, "val": 423, "test": 711},
    license="CC BY-NC-SA 3.0",
    citation=(
        "Geiger, Lenz and Urtasun 2012, Are we ready for autonomous driving? The KITTI vision "
        "benchmark suite"
    ),
    where=(
        f"https://www.cvlibs.net/datasets/kitti: {IMAGES}, {LABELS} and {DEVKIT}, as they are or "
        "unpacked"
    ),
    downloads=(
        Download(
            IMAGES,
            URL + IMAGES,
            "sha256:351c5a2aa0cd9238b50174a3a62b846bc5855da256b82a196431d60ff8d43617",
            12_569_945_557,
        ),
        Download(
            LABELS,
            URL + LABELS,
            "sha256:4efc76220d867e1c31bb980bbf8cbc02599f02a9cb4350effa98dbb04aaed880",
            5_601_213,
        ),
        Download(
            DEVKIT,
            URL + DEVKIT,
            "sha256:cfde67e531832618ea0fd4844f91e34a45068025e2bef79e278cb812dc2537d0",
            63_778,
        ),
    ),
)

# limits of the ranges in meters along the camera's axis, from task_adaptation, data/kitti.py
THRESHOLDS = (
    -100.0,
    8.0,
    20.0,
    999.0,
)
CLASSES = ["to 8 m", "8 to 20 m", "above 20 m", "no vehicle"]
VEHICLES = ("Car", "Van", "Truck")
NO_VEHICLE = 1000.0  # distance for images without a vehicle, above the last threshold
PARTS = (  # paths in the archives
    "training/image_2/",
    "training/label_2/",
    "mapping/train_mapping.txt",
    "mapping/train_rand.txt",
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    archives = [
        archive for name in (IMAGES, LABELS, DEVKIT) if (archive := find(path, name)) is not None
    ]
    files = JoinedFiles([open_files(place, _wanted) for place in (*archives, path)])
    names = {_inner(name): name for name in files.names()}
    images = sorted(name for name in names if name.startswith(PARTS[0]))
    if not images:
        return open_source(path, settings, name="kitti_distance", classes=CLASSES)
    splits = _split_of_frames(lambda name: _read(files, names, name))
    examples: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    for image in images:
        frame = Path(image).stem
        label = _label(_read(files, names, f"{PARTS[1]}{frame}.txt"), files.where(names[image]))
        if frame not in splits:
            raise UserError(f"{PARTS[3]} has no drive for frame {frame}.", SPEC.where)
        examples[splits[frame]].append(Example(names[image], label, f"{CLASSES[label]}/{frame}"))
    return Source("kitti_distance", path.name, CLASSES, examples, files)


def _label(text: str, where: str) -> int:
    """Compute the label from lines of 15 fields.

    The first field is the kind of object. The second last is its distance along the camera's axis.
    Raises UserError if the lines are damaged.
    """
    closest = NO_VEHICLE
    try:
        for fields in (line.split() for line in text.splitlines() if line.strip()):
            if len(fields) != 15:
                raise ValueError(f"{len(fields)} fields in a line")
            if fields[0] in VEHICLES:
                closest = min(closest, float(fields[13]))
    except ValueError as error:
        raise UserError(
            f"The labels of {where} are damaged: {error}.", "Fetch them again."
        ) from error
    return bisect_left(THRESHOLDS, closest) - 1


def _split_of_frames(read: Callable[[str], str]) -> Mapping[str, str]:
    """Return frame -> split. Raises UserError if the devkit is damaged."""
    drives = [line.split()[1] for line in read(PARTS[2]).splitlines() if line.strip()]
    try:
        of_frame = [
            drives[int(place) - 1] for place in read(PARTS[3]).replace("\n", " ").split(",")
        ]
    except (ValueError, IndexError) as error:
        raise UserError(f"{PARTS[3]} is damaged: {error}.", "Fetch the devkit again.") from error
    random, share = np.random.RandomState(123), max(1, len(set(of_frame)) // 10)  # as in TFDS
    test = set(random.choice(sorted(set(of_frame)), share, replace=False).tolist())
    val = set(random.choice(sorted(set(of_frame) - test), share, replace=False).tolist())
    return {
        f"{frame:06d}": "test" if drive in test else "val" if drive in val else "train"
        for frame, drive in enumerate(of_frame)
    }


def _read(files: Files, names: Mapping[str, str], name: str) -> str:
    if name not in names:
        raise UserError(f"{name} is missing.", SPEC.where)
    return files.read(names[name]).decode("utf-8-sig", errors="replace")


def _wanted(name: str) -> bool:
    return _inner(name).startswith(PARTS)


def _inner(name: str) -> str:
    """Strip outer folders: torchvision's `Kitti/raw/training/...` becomes `training/...`."""
    return next((name[place:] for part in PARTS if (place := name.find(part)) >= 0), name)
