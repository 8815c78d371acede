"""Oxford-IIIT Pets: 37 breeds of cats and dogs; images/*.jpg and annotations/{trainval,test}.txt.

A part of the official trainval, drawn by seed, becomes val; the rest is train. Twelve images
(`ODD`) are damaged or are not RGB JPEGs: they are decoded by Pillow and encoded again.
Segmentations and boxes are ignored.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.split_lists import Lists, class_folders, open_lists
from writers.source import Source, SplitSettings

URL = "https://thor.robots.ox.ac.uk/pets/"

SPEC = DatasetSpec(
    name="pets",
    title="Oxford-IIIT Pets",
    metric="mean_per_class",
    num_classes=37,
    split_sizes={"train": 3680, "test": 3669},
    protocols=("salman", "kornblith", "vtab"),
    default_protocol="salman",
    license="CC BY-SA 4.0",
    citation="Parkhi et al. 2012, Cats and dogs",
    where=(
        "https://www.robots.ox.ac.uk/~vgg/data/pets: images.tar.gz and annotations.tar.gz, "
        "unpacked side by side"
    ),
    downloads=(
        Download(
            "images.tar.gz",
            URL + "images.tar.gz",
            "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
            unpack=True,
        ),
        Download(
            "annotations.tar.gz",
            URL + "annotations.tar.gz",
            "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
            unpack=True,
        ),
    ),
)

# Images listed as corrupt by TensorFlow Datasets: cut short, with extra bytes, not JPEG, or
# transparent.
ODD = {
    *(f"Egyptian_Mau_{number}" for number in (14, 139, 145, 156, 167, 177, 186, 191)),
    "Abyssinian_5",
    "Abyssinian_34",
    "beagle_116",
    "chihuahua_121",
}


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "annotations/trainval.txt", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "annotations/trainval.txt")
    names: dict[int, str] = {}
    train, test = (_listing(lists, split, names) for split in ("trainval", "test"))
    source = lists.source(
        "pets", path, [names[number] for number in sorted(names)], train, test, settings
    )
    source.lenient = {f"images/{name}.jpg" for name in ODD}
    return source


def _listing(lists: Lists, split: str, names: dict[int, str]) -> list[tuple[str, str]]:
    """Parse lines such as `Abyssinian_100 1 1 1`: image, 1-based class, species, breed.

    Returns pairs of image file and class. The class name is the image name without its number;
    `names` maps numbers of classes to names and receives those of this split. Raises UserError if a
    line has another form, or if the images of a class have different names.
    """
    images = []
    for line in lists.lines(f"annotations/{split}.txt"):
        if line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) < 2 or not fields[1].isdigit():
            raise UserError(
                f"annotations/{split}.txt: '{line}' is not an image and its class.",
                "Download it again.",
            )
        breed = fields[0].rsplit("_", 1)[0]
        if names.setdefault(int(fields[1]), breed) != breed:
            raise UserError(
                f"annotations/{split}.txt: class {fields[1]} is called {breed} and "
                f"{names[int(fields[1])]}.",
                "Download it again.",
            )
        images.append((f"images/{fields[0]}.jpg", breed))
    return images
