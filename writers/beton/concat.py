"""Join splits in one `.beton` file without decoding, for example to fit on train and val."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from writers.beton.atomic_file import new_beton
from writers.beton.layout import Layout, write_at
from writers.beton.manifest_fields import file_fields
from writers.beton.store import Beton, Manifest, open_beton
from writers.errors import UserError


def concat_splits(files: Sequence[Path], out_file: Path, *, split: str) -> Manifest:
    """Copy all samples, file by file in order, and write a manifest.

    Returns:
        The manifest.

    Raises:
        UserError: a beton does not open, classes or kinds of labels differ, or `out_file` cannot
            be written (see `new_beton`).
    """
    betons = [open_beton(file) for file in files]
    first = betons[0].manifest
    for beton in betons[1:]:
        if _kind(beton.manifest) != _kind(first):
            raise UserError(
                f"{beton.path} has other classes than {betons[0].path}: they are not splits of one "
                "dataset.",
                "Name the splits of one dataset and subset.",
            )
    num_samples = sum(len(beton.rows) for beton in betons)
    with new_beton(out_file) as new:
        num_labels = len(first.classes) if first.multi_label else None
        layout = Layout(num_samples, num_labels, has_boxes=first.has_boxes)
        for beton in betons:
            _copy(beton, layout, new.handle)
        layout.write_tables(new.handle)
        os.fsync(new.handle)
        counts = np.sum([beton.manifest.class_counts for beton in betons], axis=0)
        same = {
            name: getattr(first, name)
            for name in (
                "name",
                "dataset",
                "classes",
                "multi_label",
                "encoding",
                "protocol",
                "differences",
                "source",
                "subset",
                "seed",
                "created_by",
            )
        }
        joined = Manifest.sealed(
            **same,
            split=split,
            class_counts=counts.tolist(),
            skipped=[entry for beton in betons for entry in beton.manifest.skipped],
            **file_fields(layout, new),
        )
        new.publish(joined)
    return joined


def _kind(manifest: Manifest) -> tuple[list[str], bool, bool]:
    return manifest.classes, manifest.multi_label, manifest.has_boxes


def _copy(beton: Beton, layout: Layout, handle: int) -> None:
    labels = np.ascontiguousarray(beton.labels)
    with beton.path.open("rb", buffering=0) as file:
        for number, (row, size) in enumerate(zip(beton.rows, beton.sizes.tolist(), strict=True)):
            offset = layout.place(size)
            write_at(handle, os.pread(file.fileno(), size, int(row["offset"])), offset)
            label = int(row["label"])
            if labels.ndim == 2:  # several labels per image: they are a separate blob
                own = labels[number].tobytes()
                label = layout.place(len(own))
                write_at(handle, own, label)
            boxes = None
            if beton.has_boxes:
                boxes_size = int(row["boxes_size"])
                boxes = layout.place(boxes_size), boxes_size
                stored = os.pread(file.fileno(), boxes_size, int(row["boxes_offset"]))
                write_at(handle, stored, boxes[0])
            layout.add(
                int(row["mode"]),
                int(row["width"]),
                int(row["height"]),
                offset,
                label,
                int(beton.ids[number]),
                beton.digests[number].tobytes(),
                boxes,
            )
