"""FFCV's `.beton` files as a source of images: one file, or a folder with one file per split.

JPEGs are read as they are stored, so `passthrough` and `dct` keep their pixels. Raw images are read
without loss. Several labels per image and boxes of objects are kept; boxes are in pixels of the
stored image.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from writers.beton.encoding import DCT, RAW
from writers.beton.store import Beton, open_beton, read_manifest
from writers.dataset import DatasetSpec
from writers.dct import blob as dct
from writers.errors import UserError
from writers.labels.kinds import BOXES, ONE_LABEL, LabelKind
from writers.source import BoxLabel, Example, Source, SplitSettings, carve
from writers.text_names import printable

SPEC = DatasetSpec(
    name="beton",
    title="Images of betons that exist, such as those adopted from FFCV",
    metric="top1",
    where="Name it: path: in a recipe. Files that FFCV wrote: harness adopt-beton first.",
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the betons at one path.

    Raises:
        UserError: there is no beton, a beton has no manifest or is damaged, or classes, kinds of
            labels or splits of the betons do not match.
    """
    files = _files(path)
    if not files:
        raise UserError(
            f"{path} has no betons.",
            "Betons end in .beton; files that FFCV wrote: harness adopt-beton FILE --out DIR",
        )
    betons: dict[str, Beton] = {}
    for file in files:
        beton = open_beton(file)
        split = beton.manifest.split
        if split in betons:
            raise UserError(
                f"{betons[split].path} and {file} are both of the split {split}.",
                "Name one beton per split.",
            )
        betons[split] = beton
    first = next(iter(betons.values())).manifest
    classes, kind = first.classes, first.label_kind
    for beton in betons.values():
        if beton.manifest.label_kind != kind:
            raise UserError(
                f"Images of {files[0]} have {kind}, and those of {beton.path} have "
                f"{beton.manifest.label_kind}.",
                "Name betons of one dataset.",
            )
        if beton.manifest.classes != classes:
            raise UserError(
                f"{files[0]} and {beton.path} have other classes.",
                "Name betons of one dataset and subset.",
            )
    splits = {split: _examples(beton, split) for split, beton in betons.items()}
    splits = carve(splits.get("train", []), splits.get("val", []), splits.get("test", []), settings)
    return Source(
        printable(first.dataset),
        printable(path.name),
        classes,
        splits,
        _BetonFiles(betons),
        multi_label=kind != ONE_LABEL,
    )


def label_kind(path: Path) -> LabelKind | None:
    """Read the kind of labels of the betons at a path from their manifests.

    Returns:
        None if there is no beton, a manifest is missing or damaged, or the kinds differ; `open`
        reports why.
    """
    try:
        kinds = {read_manifest(file).label_kind for file in _files(path)}
    except (UserError, OSError):
        return None
    return kinds.pop() if len(kinds) == 1 else None


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.beton")) if path.is_dir() else [path]


def _examples(beton: Beton, split: str) -> list[Example]:
    classes, seen = beton.manifest.classes, defaultdict[int, int](int)
    labels, kind = beton.labels, beton.manifest.label_kind
    # With several labels, missing splits are drawn by the first class that is present.
    first = labels.tolist() if kind == ONE_LABEL else labels.argmax(1).tolist()
    examples = []
    for number, (label, sample_id) in enumerate(zip(first, beton.ids.tolist(), strict=True)):
        seen[sample_id] += 1
        again = f"-{seen[sample_id]}" if seen[sample_id] > 1 else ""
        name = f"{sample_id:016x}{again}"
        examples.append(
            Example(
                f"{split}/{number:09d}",
                label,
                f"{classes[label]}/{name}" if kind == ONE_LABEL else name,
                None if kind == ONE_LABEL else tuple(labels[number].tolist()),
                _boxes(beton, number) if kind == BOXES else None,
            )
        )
    return examples


def _boxes(beton: Beton, number: int) -> tuple[BoxLabel, ...]:
    return tuple(
        BoxLabel(left, top, right, bottom, int(label), bool(difficult))
        for left, top, right, bottom, label, difficult in beton.boxes(number).tolist()
    )


class _BetonFiles:
    """Images of betons as files; keys are `<split>/<number>`. Thread-safe."""

    def __init__(self, betons: dict[str, Beton]) -> None:
        self._betons = betons
        self._sizes = {split: beton.sizes for split, beton in betons.items()}

    def names(self) -> Sequence[str]:
        return [
            f"{split}/{number:09d}"
            for split, beton in self._betons.items()
            for number in range(len(beton.rows))
        ]

    def read(self, name: str) -> bytes:
        split, _, number = name.partition("/")
        beton, row = self._betons[split], self._betons[split].rows[int(number)]
        handle = os.open(beton.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(handle, int(self._sizes[split][int(number)]), int(row["offset"]))
        finally:
            os.close(handle)
        if row["mode"] == RAW:  # return a PPM file: a header and the pixels
            return f"P6 {row['width']} {row['height']} 255\n".encode() + data
        try:
            return dct.to_jpeg(data) if row["mode"] == DCT else data
        except dct.DamagedBlobError as error:
            raise OSError(None, f"its dct blob is damaged: {error}") from error

    def where(self, name: str) -> str:
        split, _, number = name.partition("/")
        return f"{self._betons[split].path}, sample {int(number)}"
