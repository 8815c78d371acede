"""Birdsnap: 500 species of North American birds.

Reads images.txt, species.txt, test_images.txt and images/<Species>/*.jpg.

The dataset is a list of links, and many no longer work. The images that exist are read;
`--accept-counts` is needed to write them. Labels follow species.txt even if a species has no image.

    kornblith   test is test_images.txt (2,443), train the rest of images.txt (47,386 of 49,829)
    salman      train has four fifths (32,677) and test one fifth (8,171) of the images that Salman
                et al. could download. Their copy has train/ and test/; if only the lists exist, the
                split is drawn class by class, with a fixed seed

Val is drawn from train by seed. Boxes and parts are ignored.
"""

from dataclasses import replace
from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.layout_search import shares
from writers.formats.split_lists import class_folders, open_lists
from writers.source import Source, SplitSettings, carve
from writers.text_names import counted

SPEC = DatasetSpec(
    name="birdsnap",
    title="Birdsnap",
    metric="top1",
    num_classes=500,
    protocols=("salman", "kornblith"),
    default_protocol="salman",
    split_sizes={"train": 32_677, "test": 8171},
    protocol_sizes={"kornblith": {"train": 47_386, "test": 2443}},
    license="the photographers'; research",
    citation="Berg et al. 2014, Birdsnap: large-scale fine-grained visual categorization of birds",
    where="the lists in birdsnap.tgz (thomasberg.org), and the images that its script can still "
    "fetch: images.txt, "
    "species.txt, test_images.txt, images/<Species>/*.jpg; or train/ and test/<species>/*.jpg, as "
    "Salman et al. had it",
    downloads=(Download("birdsnap.tgz", unpack=True),),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "images.txt", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "images.txt")
    table = [line.split("\t") for line in lists.text("images.txt").splitlines() if line]
    species = [line.split("\t") for line in lists.text("species.txt").splitlines() if line]
    try:
        number, folder = (species[0].index(name) for name in ("id", "dir"))
        classes = {row[number]: row[folder] for row in species[1:]}
        column_path, column_species = (table[0].index(name) for name in ("path", "species_id"))
        rows = {row[column_path]: classes[row[column_species]] for row in table[1:]}
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"images.txt and species.txt at {path} do not match: {error!r}.", SPEC.where
        ) from error
    test = set(lists.lines("test_images.txt")) - {"path"}
    if strangers := sorted(test - rows.keys()):
        raise UserError(
            f"test_images.txt at {path} names {strangers[0]}, which is not in images.txt.",
            SPEC.where,
        )
    root = next(
        (
            root
            for root in ("images/", "download/images/")
            if any(name.startswith(lists.prefix + root) for name in lists.names)
        ),
        "images/",
    )
    there = [
        (root + image, name)
        for image, name in rows.items()
        if f"{lists.prefix}{root}{image}" in lists.names
    ]
    if not there:
        raise UserError(
            f"{path} has none of the {counted(len(rows), 'image')} that images.txt lists.",
            SPEC.where,
        )
    if settings.protocol == "salman":
        source = lists.source(
            "birdsnap",
            path,
            list(classes.values()),
            there,
            [],
            replace(settings, val=0.0, test=0.0),
        )
        drawn = carve(source.splits["train"], [], [], shares(0.0, 0.2))
        source.splits = carve(drawn["train"], [], drawn["test"], settings)
        return source
    train, held = (
        [pair for pair in there if (pair[0].removeprefix(root) in test) == is_test]
        for is_test in (False, True)
    )
    return lists.source("birdsnap", path, list(classes.values()), train, held, settings)
