"""Fields of the manifest of a new beton."""

from collections.abc import Sequence
from typing import Any

from writers.beton.atomic_file import NewBeton
from writers.beton.encoding import DCT, JPEG, RAW, Encoding
from writers.beton.layout import Layout
from writers.beton.selection import example_counts
from writers.beton.store import Manifest, file_digests
from writers.source import Example, Source
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
    source: Source,
    split: str,
    subset: Subset,
    encoding: Encoding,
    seed: int,
    examples: Sequence[Example],
    skipped: Sequence[dict[str, str]],
    file: dict[str, Any],
) -> Manifest:
    """Make the manifest of a `.beton` file, with its digest.

    Args:
        source: images of the dataset.
        split: train, val or test.
        subset: classes and labels of the beton.
        encoding: how images are stored.
        seed: seed of the order and of the draws of a mixed encoding.
        examples: chosen examples, including skipped ones.
        skipped: name, class and reason of each skipped image.
        file: result of `file_fields`.
    """
    left_out = {entry["name"] for entry in skipped}
    counts = example_counts(
        [example for example in examples if example.name not in left_out], len(subset.classes)
    ).tolist()
    return Manifest.sealed(
        name=name_of(source.name, subset),
        dataset=source.name,
        split=split,
        classes=list(subset.classes),
        multi_label=source.multi_label,
        class_counts=counts,
        encoding=encoding,
        source=source.origin,
        seed=seed,
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
