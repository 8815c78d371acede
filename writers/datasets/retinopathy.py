"""Diabetic retinopathy: photographs of the retina, five grades; Kaggle's files, unpacked.

    train/*.jpeg  trainLabels.csv           35,126 images
    test/*.jpeg   retinopathy_solution.csv  10,906 images with Usage Public, which are val, and
                                            42,670 with Usage Private, which are test

VTAB applies a contrast filter (`btgraham-300`), which is not applied here.
"""

import csv
import io
from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.files import open_files
from writers.formats.layout_search import find, need
from writers.source import Example, Source, SplitSettings, open_source

KAGGLE = "https://www.kaggle.com/c/diabetic-retinopathy-detection/data"

SPEC = DatasetSpec(
    name="retinopathy",
    title="Diabetic retinopathy (Kaggle 2015)",
    metric="top1",
    num_classes=5,
    protocols=("vtab",),
    split_sizes={"train": 35_126, "val": 10_906, "test": 42_670},
    license="Kaggle's competition rules",
    citation="Kaggle and EyePACS 2015, Diabetic retinopathy detection",
    where=(
        f"{KAGGLE}, after registration: train/, test/, trainLabels.csv; and "
        "retinopathy_solution.csv"
    ),
    downloads=(
        Download("train"),
        Download("test"),
        Download("trainLabels.csv"),
        Download(
            "retinopathy_solution.csv",
            "https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv",
        ),
    ),
)

CLASSES = ["none", "mild", "moderate", "severe", "proliferative"]
USAGES = {"Public": "val", "Private": "test"}


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    first = find(path, "trainLabels.csv")
    if first is None:
        return open_source(path, settings, name="retinopathy", classes=CLASSES)
    root = first.parent
    files = open_files(
        root, lambda name: name.startswith(("train/", "test/")) and name.endswith(".jpeg")
    )
    names = set(files.names())
    examples: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    for folder, file in (
        ("train", first),
        ("test", need(root, "retinopathy_solution.csv", SPEC.where)),
    ):
        for number, row in enumerate(
            csv.DictReader(io.StringIO(file.read_text("utf-8-sig", errors="replace"))), start=2
        ):
            image, level, usage = row.get("image"), row.get("level"), row.get("Usage", "train")
            if level not in ("0", "1", "2", "3", "4") or (folder == "test") != (usage in USAGES):
                raise UserError(
                    f"{file}, line {number}: {dict(row)} is not an image, its level from 0 to 4"
                    f"{', and Public or Private' if folder == 'test' else ''}.",
                    SPEC.where,
                )
            key = f"{folder}/{image}.jpeg"
            if key not in names:
                raise UserError(f"{root / key} is missing.", SPEC.where)
            label = int(level)
            examples[USAGES.get(usage, "train")].append(
                Example(key, label, f"{CLASSES[label]}/{image}")
            )
    return Source(
        "retinopathy",
        path.name,
        CLASSES,
        {
            split: sorted(of_split, key=lambda example: example.key)
            for split, of_split in examples.items()
        },
        files,
    )
