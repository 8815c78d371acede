"""Fields of the manifest of a new beton."""

from collections.abc import Sequence
from typing import Any

from writers.beton.atomic_file import NewBeton
from writers.beton.encoding import DCT, JPEG, RAW, Encoding
from writers.beton.layout import Layout
from writers.beton.selection import SplitSelection, example_counts
from writers.beton.store import Manifest, file_digests
from writers.subset.spec import Subset

CREATED_BY = "harness writers 6"  # increase the number if the same input gives different bytes
FILE_FIELDS = (
    "num_samples",
    "num_jpeg",
    "num_raw",
    "num_dct",
    "max_width",
    "max_height",
    "has_boxes",
    "page_size",
    "bytes",
    "sha256",
    "tables_sha256",
)


def file_fields(layout: Layout, new: NewBeton) -> dict[str, Any]:
    """Return the fields FILE_FIELDS of the manifest, from the layout and the temporary file."""
    rows = layout.rows
    return {
        "num_samples": len(rows),
        "num_jpeg": int((rows["mode"] == JPEG).sum()),
        "num_raw": int((rows["mode"] == RAW).sum()),
        "num_dct": int((rows["mode"] == DCT).sum()),
        "max_width": int(rows["width"].max()),
        "max_height": int(rows["height"].max()),
        "page_size": layout.page_size,
        "has_boxes": layout.has_boxes,
        **file_digests(new.temporary, len(rows), layout.pages_end, has_boxes=layout.has_boxes),
    }


def manifest_of(
    selection: SplitSelection,
    encoding: Encoding,
    skipped: Sequence[dict[str, str]],
    file: dict[str, Any],
) -> Manifest:
    """Make the manifest of a `.beton` file, with its digest.

    Args:
        selection: images of the file, including skipped ones.
        encoding: how images are stored.
        skipped: result of `selection.skipped` for each skipped image.
        file: result of `file_fields`.
    """
    source, subset, counts = selection.source, selection.subset, selection.counts
    if skipped:
        left_out = {entry["name"] for entry in skipped}
        written = [example for example in selection.examples if example.name not in left_out]
        counts = example_counts(written, len(subset.classes))
    return Manifest.sealed(
        name=name_of(source.name, subset),
        dataset=source.name,
        split=selection.split,
        classes=list(subset.classes),
        multi_label=source.multi_label,
        class_counts=counts.tolist(),
        encoding=encoding,
        source=source.origin,
        seed=selection.seed,
        subset={"name": subset.name, "num_classes": len(subset.classes), "digest": subset.digest},
        protocol=source.protocol,
        differences=source.differences,
        created_by=CREATED_BY,
        omitted=[
            {"reason": omission.reason, "count": omission.count, "names": list(omission.names)}
            for omission in source.omissions
        ],
        skipped=sorted(skipped, key=lambda entry: entry["name"]),
        **file,
    )


def name_of(dataset: str, subset: Subset) -> str:
    """Return the name of a beton in its manifest."""
    return dataset if subset.name == "all" else f"{dataset}-{subset.name}"
