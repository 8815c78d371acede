"""CLEVR for VTAB's tasks, from CLEVR_v1.0.zip or its unpacked folder.

A part of the official train (by default a tenth), drawn by seed, becomes val; the rest is train.
Test is the official val, because the official test has no labels.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from writers.dataset import Download
from writers.errors import UserError
from writers.formats.files import Files, open_files
from writers.formats.layout_search import find
from writers.source import Example, Source, SplitSettings, carve, open_source
from writers.text_names import counted

ARCHIVE = "CLEVR_v1.0.zip"
DOWNLOADS = (
    Download(
        ARCHIVE,
        f"https://dl.fbaipublicfiles.com/clevr/{ARCHIVE}",
        "md5:b11922020e72d0cd9154779b2d3d07d2",
        19_021_600_724,
    ),
)
SPLIT_SIZES = {"train": 70_000, "test": 15_000}
LICENSE = "CC BY 4.0"
CITATION = (
    "Johnson et al. 2017, CLEVR: a diagnostic dataset for compositional language and elementary "
    "visual reasoning"
)
WHERE = f"https://cs.stanford.edu/people/jcjohns/clevr: {ARCHIVE} (19 GB), as it is or unpacked"

Scene = dict[str, Any]


def open_clevr(
    path: Path,
    settings: SplitSettings,
    name: str,
    classes: Sequence[str],
    label_of: Callable[[Scene], int],
) -> Source:
    """Open CLEVR with the label that `label_of` computes from a scene.

    A folder without `scenes` is read as a tree of class folders.

    Raises:
        UserError: scenes or images are missing or damaged, or a label is not one of `classes`.
    """
    place = find(path, ARCHIVE) or find(path, "CLEVR_v1.0") or path
    if place.is_dir() and not (place / "scenes").is_dir():
        return open_source(path, settings, name=name, classes=classes)
    files = open_files(
        place,
        lambda name: name.endswith(".json") or "images/train/" in name or "images/val/" in name,
    )
    names = {file.split("CLEVR_v1.0/", 1)[-1]: file for file in files.names()}
    train, test = (_examples(files, names, split, classes, label_of) for split in ("train", "val"))
    return Source(name, path.name, list(classes), carve(train, [], test, settings), files)


def _examples(
    files: Files,
    names: dict[str, str],
    split: str,
    classes: Sequence[str],
    label_of: Callable[[Scene], int],
) -> list[Example]:
    scenes = f"scenes/CLEVR_{split}_scenes.json"
    if scenes not in names:
        raise UserError(f"{scenes} is missing.", WHERE)
    examples = []
    try:
        for scene in json.loads(files.read(names[scenes]))["scenes"]:
            image, label = scene["image_filename"], label_of(scene)
            if f"images/{split}/{image}" not in names:
                raise UserError(f"images/{split}/{image} is missing.", WHERE)
            if not 0 <= label < len(classes):
                raise UserError(
                    f"{files.where(names[scenes])}: the scene of {image} fits none of the "
                    f"{counted(len(classes), 'class')}.",
                    "Download CLEVR again: its scenes and images may be of different versions.",
                )
            examples.append(
                Example(
                    names[f"images/{split}/{image}"], label, f"{classes[label]}/{Path(image).stem}"
                )
            )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{files.where(names[scenes])} is not a complete list of scenes: {error!r}",
            "Download it again.",
        ) from error
    return sorted(examples, key=lambda example: example.key)
