"""Birdsnap: 500 species of North American birds; images.txt, species.txt, test_images.txt and images/<Species>/*.jpg.

The images are links, and many are dead: Kornblith et al. 2019 had 47,386 and 2,443, Salman et al. 2020 32,677 and 8,171 (both
as remembered), later copies fewer. Labels are those of species.txt, whatever has survived. Train is what is not in
test_images.txt, without what a seeded draw carves out as val. Boxes and parts are ignored.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.listed import open_lists
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="birdsnap", title="Birdsnap", metric="top1", num_classes=500, protocols=("kornblith", "salman"),
    split_sizes={"train": 47_386, "test": 2443}, protocol_sizes={"salman": {"train": 32_677, "test": 8171}},
    licence="the photographers'; research",
    citation="Berg et al. 2014, Birdsnap: large-scale fine-grained visual categorization of birds",
    where="the lists in birdsnap.tgz (thomasberg.org), and the images that its script can still fetch: images.txt, "
          "species.txt, test_images.txt, images/<Species>/*.jpg; or train/ and test/<species>/*.jpg, as Salman et al. had it",
    downloads=(Download("birdsnap"),))


def open(path: Path, settings: SplitSettings) -> Source:
    lists = open_lists(path, "images.txt", SPEC.where)
    if lists is None:
        return open_source(path, settings, name="birdsnap")
    table = [line.split("\t") for line in lists.text("images.txt").splitlines() if line]
    species = [line.split("\t") for line in lists.text("species.txt").splitlines() if line]
    try:
        number, common = (species[0].index(name) for name in ("id", "common"))
        classes = {row[number]: row[common].replace(" ", "_") for row in species[1:]}
        column_path, column_species = (table[0].index(name) for name in ("path", "species_id"))
        rows = {row[column_path]: classes[row[column_species]] for row in table[1:]}
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"images.txt and species.txt at {path} do not fit together: {error!r}.", SPEC.where) from error
    test = set(lists.lines("test_images.txt")) - {"path"}
    root = next((root for root in ("images/", "download/images/") if any(
        name.startswith(lists.prefix + root) for name in lists.names)), "images/")
    there = [(root + image, name) for image, name in rows.items() if f"{lists.prefix}{root}{image}" in lists.names]
    if not there:
        raise UserError(f"{path} has none of the {len(rows):,} images that images.txt lists.", SPEC.where)
    train, held = ([pair for pair in there if (pair[0].removeprefix(root) in test) == is_test] for is_test in (False, True))
    return lists.source("birdsnap", path, list(classes.values()), train, held, settings)
