"""Make the datasets of VTAB in their official layouts, with few images."""

import gzip
import io
import json
import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

from tests.helpers.pictures import picture

RANDOM = np.random.default_rng(0)


def make_svhn(root: Path) -> Path:
    for split, number in (("train", 60), ("test", 20)):
        savemat(
            root / f"{split}_32x32.mat",
            {
                "X": RANDOM.integers(0, 256, (32, 32, 3, number), dtype=np.uint8),
                "y": (np.arange(number) % 10 + 1).astype(np.uint8)[:, None],
            },
        )
    return root


def make_eurosat(root: Path, name: str = "eurosat") -> Path:
    classes = import_module(f"writers.datasets.{name}").CLASSES
    folder = {"eurosat": "2750", "resisc45": "NWPU-RESISC45"}[name]
    for label, kind in enumerate(classes):
        (root / name / folder / kind).mkdir(parents=True)
        for number in range(1, 11):
            picture(100 * label + number, 64, 64).save(
                root / name / folder / kind / f"{kind}_{number}.jpg"
            )
    return root


def make_pcam(root: Path) -> Path:
    (root / "pcam").mkdir()
    for part, number in (("train", 12), ("valid", 6), ("test", 5)):
        prefix = root / "pcam" / f"camelyonpatch_level_2_split_{part}"
        with h5py.File(f"{prefix}_x.h5", "w") as file:
            file["x"] = RANDOM.integers(0, 256, (number, 96, 96, 3), dtype=np.uint8)
        with h5py.File(f"{prefix}_y.h5", "w") as file:
            file["y"] = (np.arange(number, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
    return root


def make_clevr(root: Path) -> Path:
    folder = root / "clevr" / "CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    for split, number in (("train", 40), ("val", 16), ("test", 3)):
        (folder / "images" / split).mkdir(parents=True)
        scenes = []
        for index in range(number):
            name = f"CLEVR_{split}_{index:06d}.png"
            picture(index, 48, 32).save(folder / "images" / split / name)
            closest = (7.0, 8.0, 8.2, 8.6, 9.2, 9.7, 10.0, 12.5)[index % 8]
            coordinates = [[10, 10, closest + 2 * place] for place in range(3 + index % 8)]
            scenes.append(
                {
                    "image_filename": name,
                    "objects": [{"pixel_coords": place} for place in reversed(coordinates)],
                }
            )
        if split != "test":
            (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(
                json.dumps({"scenes": scenes})
            )
    return root


def make_dsprites(root: Path) -> Path:
    values = np.stack(
        [
            np.zeros(640, int),
            np.arange(640) % 3,
            np.arange(640) % 6,
            np.arange(640) % 40,
            np.arange(640) % 32,
            np.arange(640) // 20,
        ],
        axis=1,
    )
    images = RANDOM.integers(0, 2, (640, 64, 64), dtype=np.uint8)
    with h5py.File(root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5", "w") as file:
        file.create_dataset("imgs", data=images, compression="gzip", chunks=(100, 64, 64))
        file["latents/classes"] = values
    return root


def make_smallnorb(root: Path) -> Path:
    for stem, number in (
        ("5x46789x9x18x6x2x96x96-training", 36),
        ("5x01235x9x18x6x2x96x96-testing", 72),
    ):
        info = np.stack(
            [
                np.arange(number) % 10,
                np.arange(number) % 9,
                2 * (np.arange(number) % 18),
                np.arange(number) % 6,
            ],
            axis=1,
        ).astype("<i4")
        parts = {
            "dat": (0x1E3D4C55, RANDOM.integers(0, 256, (number, 2, 96, 96), dtype=np.uint8)),
            "info": (0x1E3D4C54, info),
            "cat": (0x1E3D4C54, (np.arange(number) % 5).astype("<i4")),
        }
        for kind, (magic, array) in parts.items():
            shape = [*array.shape, 1, 1][: max(3, array.ndim)]
            data = struct.pack(f"<ii{len(shape)}i", magic, array.ndim, *shape) + array.tobytes()
            (root / f"smallnorb-{stem}-{kind}.mat.gz").write_bytes(gzip.compress(data, 1))
    return root


CLOSEST = (
    [],
    [("Car", 5.0), ("Pedestrian", 1.0)],
    [("Van", 8.0), ("Truck", 30.0)],
    [("Truck", 8.1)],
    [("Car", 20.5)],
    [("Cyclist", 3.0), ("DontCare", -1000.0)],
)


CLOSEST_LABELS = (3, 0, 0, 1, 2, 3)


def make_kitti(root: Path) -> Path:
    raw = root / "Kitti" / "raw"
    for name in ("training/image_2", "training/label_2", "mapping"):
        (raw / name).mkdir(parents=True)
    for frame in range(60):
        picture(frame, 60, 20).save(raw / "training" / "image_2" / f"{frame:06d}.png")
        lines = [
            f"{kind} 0.00 0 -1.5 600.1 150.2 630.3 180.4 1.5 1.6 3.7 1.8 1.5 {z} -1.6"
            for kind, z in CLOSEST[frame % 6]
        ]
        (raw / "training" / "label_2" / f"{frame:06d}.txt").write_text(
            "".join(f"{line}\n" for line in lines)
        )
    drives = [
        f"2011_09_26 2011_09_26_drive_{line // 3:04d}_sync {line:010d}\n" for line in range(60)
    ]
    (raw / "mapping" / "train_mapping.txt").write_text("".join(drives))
    (raw / "mapping" / "train_rand.txt").write_text(
        ",".join(str((7 * frame) % 60 + 1) for frame in range(60))
    )
    return root


def varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data, number = data + bytes([number & 0x7F | 0x80]), number >> 7
    return data + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def tf_record(image: bytes, label: int, packed: bool) -> bytes:
    """Encode a tf.train.Example as a TFRecord, according to the published formats."""
    number = field(1, varint(label)) if packed else varint(1 << 3) + varint(label)
    features = {
        "filename": field(1, field(1, b"0.jpg")),
        "image": field(1, field(1, image)),
        "label": field(3, number),
        "weight": field(2, field(1, struct.pack("<f", 0.5))),
    }
    data = field(
        1,
        b"".join(
            field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()
        ),
    )
    return struct.pack("<Q", len(data)) + b"CRC1" + data + b"CRC2"


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, 48, 36).save(buffer, "JPEG")
    return buffer.getvalue()


def make_dmlab(root: Path) -> Path:
    (root / "dmlab").mkdir()
    for part, number in (("train", 12), ("validation", 6), ("test", 6)):
        for shard in range(2):
            records = [
                tf_record(jpeg(index), index % 6, packed=shard == 0)
                for index in range(shard, number, 2)
            ]
            (root / "dmlab" / f"dmlab-{part}.tfrecord-{shard:05d}-of-00002").write_bytes(
                b"".join(records)
            )
    return root


def make_retinopathy(root: Path) -> Path:
    for folder, number in (("train", 10), ("test", 12)):
        (root / folder).mkdir()
        for index in range(number):
            (root / folder / f"{index}_left.jpeg").write_bytes(jpeg(index))
    (root / "trainLabels.csv").write_text(
        "image,level\n" + "".join(f"{index}_left,{index % 5}\n" for index in range(10))
    )
    lines = [
        f"{index}_left,{index % 5},{'Public' if index < 5 else 'Private'}\n" for index in range(12)
    ]
    (root / "retinopathy_solution.csv").write_text("image,level,Usage\n" + "".join(lines))
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "svhn": make_svhn,
    "eurosat": make_eurosat,
    "resisc45": lambda root: make_eurosat(root, "resisc45"),
    "pcam": make_pcam,
    "clevr-count": make_clevr,
    "clevr-distance": make_clevr,
    "dsprites-location": make_dsprites,
    "dsprites-orientation": make_dsprites,
    "smallnorb-azimuth": make_smallnorb,
    "smallnorb-elevation": make_smallnorb,
    "kitti-distance": make_kitti,
    "dmlab": make_dmlab,
    "retinopathy": make_retinopathy,
}
