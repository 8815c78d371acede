"""Caltech-101: 101 classes of 31 to 800 photographs, and a background class.

Protocols:
    salman      101 classes; the first 30 images per class by name are train, the rest test (Salman
                et al. 2020; their code also leaves out the first image of the dataset). The
                default.
    kornblith   102 classes with the background; 30 images of each, drawn with a fixed seed, are
                train. The published draw depends on the order of a file system. `vtab` uses this
                split, too.
    carved      splits drawn by the fractions `val` and `test`, if the dataset is a source

Val is drawn from train. A folder with train/ and test/ keeps its own splits.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.first_n_split import first_of_each
from writers.formats.layout_search import find
from writers.formats.split_lists import refuse_packed
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="caltech101",
    title="Caltech-101",
    metric="mean_per_class",
    num_classes=101,
    license="CC BY 4.0",
    split_sizes={"train": 3030, "test": 5647},
    protocols=("salman", "kornblith", "vtab", "carved"),
    default_protocol="salman",
    protocol_sizes={
        "kornblith": {"train": 3060, "test": 6084},
        "carved": {},
        "vtab": {"train": 3060, "test": 6084},
    },
    protocol_classes={"kornblith": 102, "vtab": 102},
    citation="Li, Andreeto, Ranzato and Perona 2022, Caltech 101",
    where="https://data.caltech.edu/records/mzrjq-6wc02: caltech-101.zip, with "
    "101_ObjectCategories.tar.gz in it unpacked, "
    "or an uncompressed tar of 101_ObjectCategories/",
    downloads=(
        Download(
            "caltech-101.zip",
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "md5:3138e1922a9193bfa496528edbbc45d0",
            137_414_764,
            unpack=True,
        ),
        Download("caltech-101/101_ObjectCategories.tar.gz", unpack=True, inside="caltech-101.zip"),
    ),
)

BACKGROUND = "BACKGROUND_Google"
NUM_TRAIN = 30

CLASSES = [
    "Faces",
    "Faces_easy",
    "Leopards",
    "Motorbikes",
    "accordion",
    "airplanes",
    "anchor",
    "ant",
    "barrel",
    "bass",
    "beaver",
    "binocular",
    "bonsai",
    "brain",
    "brontosaurus",
    "buddha",
    "butterfly",
    "camera",
    "cannon",
    "car_side",
    "ceiling_fan",
    "cellphone",
    "chair",
    "chandelier",
    "cougar_body",
    "cougar_face",
    "crab",
    "crayfish",
    "crocodile",
    "crocodile_head",
    "cup",
    "dalmatian",
    "dollar_bill",
    "dolphin",
    "dragonfly",
    "electric_guitar",
    "elephant",
    "emu",
    "euphonium",
    "ewer",
    "ferry",
    "flamingo",
    "flamingo_head",
    "garfield",
    "gerenuk",
    "gramophone",
    "grand_piano",
    "hawksbill",
    "headphone",
    "hedgehog",
    "helicopter",
    "ibis",
    "inline_skate",
    "joshua_tree",
    "kangaroo",
    "ketch",
    "lamp",
    "laptop",
    "llama",
    "lobster",
    "lotus",
    "mandolin",
    "mayfly",
    "menorah",
    "metronome",
    "minaret",
    "nautilus",
    "octopus",
    "okapi",
    "pagoda",
    "panda",
    "pigeon",
    "pizza",
    "platypus",
    "pyramid",
    "revolver",
    "rhino",
    "rooster",
    "saxophone",
    "schooner",
    "scissors",
    "scorpion",
    "sea_horse",
    "snoopy",
    "soccer_ball",
    "stapler",
    "starfish",
    "stegosaurus",
    "stop_sign",
    "strawberry",
    "sunflower",
    "tick",
    "trilobite",
    "umbrella",
    "watch",
    "water_lilly",
    "wheelchair",
    "wild_cat",
    "windsor_chair",
    "wrench",
    "yin_yang",
]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open Caltech-101.

    Raises:
        UserError: a folder is not one of the classes, or an archive must be unpacked first.
    """
    refuse_packed(path, SPEC)
    with_background = settings.protocol in ("kornblith", "vtab")
    classes, exclude = ([BACKGROUND, *CLASSES], []) if with_background else (CLASSES, [BACKGROUND])
    place = find(path, "101_ObjectCategories") or find(path, "101_ObjectCategories.tar") or path
    number = None if settings.protocol == "carved" else NUM_TRAIN
    return first_of_each(
        place,
        settings,
        name="caltech101",
        number=number,
        exclude=exclude,
        classes=classes,
        drawn=with_background,
    )
