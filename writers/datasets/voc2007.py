"""PASCAL VOC 2007, classification: 20 classes, several per image; mean average precision.

Reads the two official tars, a tar of both, or the unpacked VOCdevkit/VOC2007. Labels come from
ImageSets/Main/*_trainval.txt and *_test.txt: 1 if the class is present, 0 if all of its objects are
difficult, -1 if it is absent. Difficult labels are ignored in training and in the score, which is
the average precision at 11 recalls. Bounding boxes are ignored; `voc2007_detection` reads them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.datasets._voc import Voc
from writers.errors import UserError
from writers.formats.files import Files, JoinedFiles, open_files
from writers.source import Example, Source, SplitSettings, carve

TRAINVAL_TAR, TEST_TAR = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"

SPEC = DatasetSpec(
    name="voc2007",
    title="PASCAL VOC 2007 (classification)",
    metric="map11",
    num_classes=20,
    split_sizes={"train": 5011, "test": 4952},
    license="Flickr's terms of use; research",
    citation="Everingham et al. 2010, The PASCAL Visual Object Classes (VOC) Challenge",
    where=f"the two tars {TRAINVAL_TAR} and {TEST_TAR}, or VOCdevkit/VOC2007 unpacked from them",
    downloads=(
        Download(
            TRAINVAL_TAR,
            f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/{TRAINVAL_TAR}",
            "md5:c52e279531787c972589f7e41ab4ae64",
            460_032_000,
        ),
        Download(
            TEST_TAR,
            f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/{TEST_TAR}",
            "md5:b6e924de25625d8de591ea690078ad9f",
            451_020_800,
        ),
    ),
)

CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
LISTS = "ImageSets/Main/"
ACCEPTED = (
    f"Accepted: a folder with {TRAINVAL_TAR} and {TEST_TAR}, or VOCdevkit/VOC2007 with JPEGImages/ "
    f"and {LISTS} "
    "(class folders cannot express several labels per image)."
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open VOC 2007. A part of the official trainval, drawn by seed, becomes val."""
    voc = Voc(open_files_of(path, _wanted), f"{LISTS}{CLASSES[0]}_trainval.txt", path, ACCEPTED)
    train, test = (_examples(voc, split) for split in ("trainval", "test"))
    return Source(
        "voc2007",
        path.name,
        CLASSES,
        carve(train, [], test, settings),
        voc.files,
        voc.prefix,
        multi_label=True,
    )


def open_files_of(path: Path, is_read: Callable[[str], bool]) -> Files:
    """Open the files of a release that `is_read` selects, in a folder, a tar, or the two tars.

    Raises:
        UserError: there is no such path, or an archive is damaged.
    """
    if not path.is_dir() or not ((path / TRAINVAL_TAR).exists() or (path / TEST_TAR).exists()):
        return open_files(path, is_read)
    return JoinedFiles([open_files(path / name, is_read) for name in (TRAINVAL_TAR, TEST_TAR)])


def _wanted(path: str) -> bool:
    return "JPEGImages/" in path or (LISTS in path and path.endswith(".txt"))


def _examples(voc: Voc, split: str) -> list[Example]:
    """List the images of a split, sorted.

    Raises:
        UserError: lists are missing, damaged or do not match the images.
    """
    marks = voc.read_marks([f"{LISTS}{name}_{split}.txt" for name in CLASSES], _parsed, "images")
    voc.check_present([f"JPEGImages/{image}.jpg" for image in marks], f"images of {split}")
    return [_example(image, labels) for image, labels in marks.items()]


def _example(image: str, labels: tuple[int, ...]) -> Example:
    if max(labels) < 0:
        raise UserError(
            f"Image {image} has none of the classes.",
            "VOC 2007 has no such image. Download its lists again.",
        )
    return Example(f"JPEGImages/{image}.jpg", labels.index(max(labels)), image, labels)


def _parsed(fields: Sequence[str]) -> tuple[str, int]:
    """Parse a line such as `000012 -1`; return image and label. Raises ValueError for others."""
    if len(fields) != 2 or fields[1] not in ("-1", "0", "1"):
        raise ValueError("an image and one of -1, 0 and 1")
    return fields[0], int(fields[1])
