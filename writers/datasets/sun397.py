"""SUN397: 397 kinds of places.

Reads SUN397/<a>/<class>[/<sub>]/sun_*.jpg with ClassName.txt, and the lists of the ten partitions.

The first partition is used, as in Kornblith et al. 2019 and Salman et al. 2020: 50 images per class
for train and 50 for test; val is drawn from train. Some files named .jpg are BMP, PNG or GIF; they
are decoded by their content. Two images (`UNREADABLE`) cannot be decoded: the writer skips them and
lists them in the manifest.

The protocol `vtab` uses the lists sun397_tfds_{tr,va,te}.txt from the package of TensorFlow
Datasets. Place them in the same folder.
"""

from dataclasses import replace
from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.split_lists import Lists, class_folders, open_lists
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="sun397",
    title="SUN397 (first partition)",
    metric="top1",
    num_classes=397,
    protocols=("salman", "kornblith", "vtab"),
    default_protocol="salman",
    split_sizes={"train": 19_850, "test": 19_850},
    protocol_sizes={"vtab": {"test": 21_750}},
    license="the photographers'; research",
    citation="Xiao et al. 2010, SUN database: large-scale scene recognition from abbey to zoo",
    where="SUN397.tar.gz unpacked (SUN397/), and Partitions.zip unpacked (Training_01.txt, "
    "Testing_01.txt, ClassName.txt) in "
    "it or next to it; their host is gone since 2025, mirrors have them; or train/ and "
    "test/<class>/*.jpg",
    downloads=(
        Download(
            "SUN397.tar.gz", "", "md5:8ca2778205c41d23104230ba66911c7a", 39_077_296_924, unpack=True
        ),
        Download(
            "Partitions.zip",
            "",
            "sha256:e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
            18_293_705,
            unpack=True,
        ),
    ),
)

PARTITION = {"train": "Training_01.txt", "test": "Testing_01.txt"}
VTAB_LISTS = {
    "train": "sun397_tfds_tr.txt",
    "val": "sun397_tfds_va.txt",
    "test": "sun397_tfds_te.txt",
}

# Images that cannot be decoded, as found by TensorFlow Datasets.
UNREADABLE = ("sun_bhenjvsvrtumjuri", "sun_aophkoiosslinihb")


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    files = VTAB_LISTS if settings.protocol == "vtab" else PARTITION
    names, partition = (
        open_lists(path, marker, SPEC) for marker in ("ClassName.txt", files["train"])
    )
    if names is not None and partition is None and settings.protocol == "vtab":
        raise UserError(
            f"VTAB's splits of SUN397 need {', '.join(files.values())} at {path}.",
            "They are in the package tensorflow-datasets, in "
            "tensorflow_datasets/image_classification/.",
        )
    if names is None or partition is None:
        return class_folders(path, settings, SPEC, "ClassName.txt and Training_01.txt")
    folders = [line.strip("/") for line in names.lines("ClassName.txt")]
    listings = {
        split: [(line.strip("/"), _class_of(line)) for line in partition.lines(name)]
        for split, name in files.items()
    }
    images = _at_its_images(names, listings["train"][0][0])
    images.refuse_strangers("", folders)
    classes = [_class_of(f"{folder}/image") for folder in folders]
    source = images.source(
        "sun397",
        path,
        classes,
        listings["train"],
        listings["test"],
        settings,
        val=listings.get("val", ()),
    )
    source.damaged = {
        example.key: "known to be damaged in the published archive"
        for split in source.splits.values()
        for example in split
        if example.name.endswith(UNREADABLE)
    }
    return source


def _class_of(line: str) -> str:
    """Return the class of an image: apse/indoor for `/a/apse/indoor/sun_x.jpg`."""
    return line.strip("/").split("/", 1)[1].rsplit("/", 1)[0]


def _at_its_images(lists: Lists, image: str) -> Lists:
    """Return the lists with the root of the images, which may be in a folder below the lists."""
    there = next(
        (name for name in sorted(lists.names) if name.endswith(f"/{image}") or name == image), None
    )
    return lists if there is None else replace(lists, prefix=there.removesuffix(image))
