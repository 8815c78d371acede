"""Images and boxes in the layout of PASCAL VOC's detection task: image sets and annotations."""

from collections.abc import MutableMapping, Sequence

from writers.datasets._voc import AGAIN, Voc
from writers.datasets._voc_annotations import AnnotatedObject, read_annotation
from writers.errors import UserError
from writers.source import BoxLabel, Example
from writers.text_names import counted, preview, printable

LISTS = "ImageSets/Main/"


def is_read(path: str) -> bool:
    """Return True for images, annotations and image sets."""
    return (
        "JPEGImages/" in path
        or (LISTS in path and path.endswith(".txt"))
        or ("Annotations/" in path and path.endswith(".xml"))
    )


def read_splits(
    voc: Voc,
    splits: Sequence[str],
    classes: Sequence[str],
    damaged: MutableMapping[str, str] | None = None,
) -> list[list[Example]]:
    """Read the images of splits with their boxes, sorted by name.

    The labels of an image follow from its boxes: a class is present (1) if at least one of its
    objects is not difficult, difficult (0) if all its objects are, and otherwise absent (-1).

    Args:
        voc: files of the release.
        splits: names of image sets, such as trainval.
        classes: names in label order.
        damaged: receives key and reason of each image with a damaged annotation. Such an image is
            returned without boxes; its classes are all absent (-1) and its label is 0. If damaged
            is None, such an annotation raises UserError.

    Raises:
        UserError: a list, an image or an annotation is missing, a list is damaged, or an image is
            in two splits. Without `damaged` also if an annotation is damaged or an object has an
            unknown class.
    """
    by_split = [voc.read_images(f"{LISTS}{split}.txt") for split in splits]
    for number, images in enumerate(by_split):
        for earlier, others in zip(splits[:number], by_split[:number], strict=True):
            if both := sorted(set(images) & set(others)):
                file = voc.files.where(f"{voc.prefix}{LISTS}{splits[number]}.txt")
                raise UserError(
                    f"{file} and {earlier}.txt have {counted(len(both), 'equal image')}: "
                    f"{preview(both)}.",
                    AGAIN,
                )
    number_of = {name: number for number, name in enumerate(classes)}
    return [
        _examples(voc, split, images, number_of, damaged)
        for split, images in zip(splits, by_split, strict=True)
    ]


def _examples(
    voc: Voc,
    split: str,
    images: Sequence[str],
    number_of: dict[str, int],
    damaged: MutableMapping[str, str] | None,
) -> list[Example]:
    for folder, extension in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        wanted = [f"{folder}/{image}.{extension}" for image in images]
        voc.check_present(wanted, f"files of {split} in {folder}/")
    examples = []
    for image in images:
        try:
            examples.append(_example(voc, image, number_of))
        except UserError as error:
            if damaged is None:
                raise
            key = f"JPEGImages/{image}.jpg"
            damaged[key] = voc.reason(error, f"Annotations/{image}.xml")
            examples.append(Example(key, 0, image, (-1,) * len(number_of), ()))
    return examples


def _example(voc: Voc, image: str, number_of: dict[str, int]) -> Example:
    file = f"{voc.prefix}Annotations/{image}.xml"
    boxes, size = [], None
    for number, thing in read_annotation(voc.files, file).items():
        if thing.name not in number_of:
            raise UserError(
                f"{voc.files.where(file)}: object {number} is of the unknown class "
                f"'{printable(thing.name)[:40]}'.",
                f"The classes are {preview(list(number_of))}.",
            )
        boxes.append(_box_label(thing, number_of[thing.name]))
        size = thing.image_size
    labels = [-1] * len(number_of)
    for box in boxes:
        labels[box.label] = max(labels[box.label], 0 if box.difficult else 1)
    return Example(
        f"JPEGImages/{image}.jpg",
        labels.index(max(labels)),
        image,
        tuple(labels),
        tuple(boxes),
        size,
    )


def _box_label(thing: AnnotatedObject, label: int) -> BoxLabel:
    return BoxLabel(*thing.box, label, thing.is_difficult)
