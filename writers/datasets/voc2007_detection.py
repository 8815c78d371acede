"""PASCAL VOC 2007, detection: boxes of 20 classes; mean average precision at IoU 0.5, 11 recalls.

Reads the two official tars, a tar of both, or the unpacked VOCdevkit/VOC2007: the image sets
ImageSets/Main/trainval.txt and test.txt, and the annotation of each image. Annotations count pixels
from 1 and include the last one; boxes here count from 0 and exclude it. Boxes keep the flag
`difficult`.

For classification, each image also has a label per class as in `voc2007`, computed from its boxes.
"""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets import voc2007
from writers.datasets._voc import Voc
from writers.datasets._voc_boxes import LISTS, is_read, read_splits
from writers.source import Source, SplitSettings, carve

SPEC = DatasetSpec(
    name="voc2007_detection",
    title="PASCAL VOC 2007 (detection)",
    metric="map50_11",
    num_classes=20,
    split_sizes=voc2007.SPEC.split_sizes,
    license=voc2007.SPEC.license,
    citation=voc2007.SPEC.citation,
    where=voc2007.SPEC.where,
    folder="voc2007",
    downloads=voc2007.SPEC.downloads,
)

ACCEPTED = (
    f"Accepted: a folder with {voc2007.TRAINVAL_TAR} and {voc2007.TEST_TAR}, or VOCdevkit/VOC2007 "
    f"with JPEGImages/, Annotations/ and {LISTS}."
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open VOC 2007. A part of the official trainval, drawn by seed, becomes val.

    Raises:
        UserError: lists, images or annotations are missing, damaged, or do not match.
    """
    voc = Voc(voc2007.open_files_of(path, is_read), f"{LISTS}trainval.txt", path, ACCEPTED)
    damaged: dict[str, str] = {}
    train, test = read_splits(
        voc, ("trainval", "test"), voc2007.CLASSES, damaged if settings.skip_damaged else None
    )
    return Source(
        SPEC.name,
        path.name,
        list(voc2007.CLASSES),
        carve(train, [], test, settings),
        voc.files,
        voc.prefix,
        multi_label=True,
        damaged=damaged,
    )
