"""PASCAL VOC 2012, actions: ten actions of people, several per person; mean average precision.

Reads VOCtrainval_11-May-2012.tar or the unpacked VOCdevkit/VOC2012. An example is a person:
ImageSets/Action/<action>_<split>.txt has the lines `<image> <object> <1 or -1>`, and the annotation
of the image has the box of the object. A part of the official train, drawn by seed, becomes val;
the rest is train. Test is the official val, because the labels of the official test are not
published.

The image is cropped to the person's box, enlarged by CONTEXT about its center and cut at the edges
of the image. (Huh et al. 2016, What makes ImageNet good for transfer learning?, do not describe
their crop.) Crops are encoded again, so the storage format `passthrough` has no effect on them.

People who do none of the ten actions (`other` in the annotations) are negatives for all ten. The
challenge does the same: `other` is not one of its classes.

Hyper-parameters are chosen by `map11`, the mean average precision at 11 recalls, as for VOC 2007.
Results also have `map`, at all recalls, which the challenge has used since 2010. Compare `map` with
the published results of 2012.
"""

import math
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from PIL import Image

from writers.beton.boxes import BoxError, check_size
from writers.dataset import DatasetSpec, Download
from writers.datasets._voc import AGAIN, Voc
from writers.datasets._voc_annotations import AnnotatedObject, Box, read_annotation
from writers.errors import UserError
from writers.formats.files import Files, open_files
from writers.source import Example, Source, SplitSettings, carve
from writers.synthetic.reencode import redrawn

TAR = "VOCtrainval_11-May-2012.tar"
CONTEXT = 1.2  # ratio of the sides of a crop to the sides of the box

SPEC = DatasetSpec(
    name="voc2012_actions",
    title="PASCAL VOC 2012 (actions)",
    metric="map11",
    num_classes=10,
    license="Flickr's terms of use; research",
    citation="Everingham et al. 2015, The PASCAL Visual Object Classes Challenge: A Retrospective",
    where=f"the tar {TAR}, or VOCdevkit/VOC2012 unpacked from it",
    folder="voc2012",
    downloads=(
        Download(
            TAR,
            f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{TAR}",
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
)

ACTIONS = (
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
)
LISTS = "ImageSets/Action/"
ACCEPTED = (
    f"Accepted: {TAR}, a folder with it, or VOCdevkit/VOC2012 with JPEGImages/, Annotations/ and "
    f"{LISTS}."
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open VOC 2012's people and their actions.

    Raises:
        UserError: lists or annotations are missing, damaged, or do not match.
    """
    place = path / TAR if path.is_dir() and (path / TAR).exists() else path
    voc = Voc(open_files(place, _wanted), f"{LISTS}{ACTIONS[0]}_train.txt", path, ACCEPTED)
    people = People(voc.files, voc.prefix)
    damaged: dict[str, str] = {}
    train, test = (
        _examples(voc, split, people, damaged if settings.skip_damaged else None)
        for split in ("train", "val")
    )
    return Source(
        SPEC.name,
        path.name,
        list(ACTIONS),
        carve(train, [], test, settings),
        people,
        multi_label=True,
        damaged=damaged,
    )


class People:
    """Crops of people as files. `JPEGImages/2010_006215.jpg#1` is the image's object number 1."""

    def __init__(self, files: Files, prefix: str) -> None:
        """Wrap the files of VOC below `prefix`."""
        self._files, self._prefix = files, prefix
        self.boxes: dict[str, Box] = {}
        self.sizes: dict[str, tuple[float, float]] = {}  # annotated width and height of the image

    def names(self) -> Sequence[str]:
        """List the people."""
        return list(self.boxes)

    def read(self, name: str) -> bytes:
        """Return a person's crop as a lossless file. Raises OSError if Pillow cannot decode it."""
        file, _, number = name.rpartition("#")

        def crop(image: Image.Image) -> Image.Image:
            try:
                check_size(self.sizes.get(name), image.size)
            except BoxError as error:
                raise OSError(str(error)) from error
            box = crop_of(self.boxes[name], image.width, image.height)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise OSError(f"the box of object {number} is outside of it")
            return image.crop(box)

        return redrawn(self._files.read(self._prefix + file), crop)

    def where(self, name: str) -> str:
        """Describe the location of a person for messages."""
        image, _, number = name.rpartition("#")
        return f"{self._files.where(self._prefix + image)}, object {number}"


def crop_of(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the crop, in whole pixels inside the image."""
    more_x, more_y = (
        (CONTEXT - 1) / 2 * side for side in (box.right - box.left, box.bottom - box.top)
    )
    return (
        max(0, math.floor(box.left - more_x)),
        max(0, math.floor(box.top - more_y)),
        min(width, math.ceil(box.right + more_x)),
        min(height, math.ceil(box.bottom + more_y)),
    )


def _wanted(path: str) -> bool:
    return (
        "JPEGImages/" in path
        or (LISTS in path and path.endswith(".txt"))
        or ("Annotations/" in path and path.endswith(".xml"))
    )


def _examples(
    voc: Voc, split: str, people: People, damaged: MutableMapping[str, str] | None
) -> list[Example]:
    """List the people of a split, sorted, and add their boxes to `people`.

    `damaged` receives key and reason of each person with a damaged annotation. None raises
    UserError instead.
    """
    lists = [f"{LISTS}{action}_{split}.txt" for action in ACTIONS]
    by_person = voc.read_marks(lists, _parsed, "people")
    images = sorted({image for image, _ in by_person})
    for folder, extension in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        wanted = [f"{folder}/{image}.{extension}" for image in images]
        voc.check_present(wanted, f"files of {split} in {folder}/")
    annotations = {image: f"{voc.prefix}Annotations/{image}.xml" for image in images}
    people_of: dict[str, dict[int, AnnotatedObject] | UserError] = {}
    for image, file in annotations.items():
        try:
            people_of[image] = read_annotation(voc.files, file, only=("person",))
        except UserError as error:
            people_of[image] = error
    examples = []
    for (image, number), marks in by_person.items():
        key = f"JPEGImages/{image}.jpg#{number}"
        found = people_of[image]
        if not isinstance(found, UserError) and number not in found:
            found = UserError(
                f"{voc.files.where(annotations[image])} has no person as object {number}, whom "
                f"{lists[0]} lists.",
                AGAIN,
            )
        if isinstance(found, UserError):
            if damaged is None:
                raise found
            damaged[key] = voc.reason(found, f"Annotations/{image}.xml")
        else:
            people.boxes[key] = found[number].box
            people.sizes[key] = found[number].image_size
        examples.append(Example(key, marks.index(max(marks)), f"{image}#{number}", marks))
    return examples


def _parsed(fields: Sequence[str]) -> tuple[tuple[str, int], int]:
    """Parse a line such as `2010_006215 1 -1`; return person (image, object number) and label.

    Raises ValueError if the line has another form.
    """
    if len(fields) != 3 or not _is_number(fields[1]) or fields[2] not in ("-1", "1"):
        raise ValueError("an image, the number of an object, and 1 or -1")
    return (fields[0], int(fields[1])), int(fields[2])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
