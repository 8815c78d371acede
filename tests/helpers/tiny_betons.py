"""Write small `.beton` files byte by byte, so that tests do not depend on a writer."""

import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from writers.beton.encoding import Encoding
from writers.beton.store import Manifest, manifest_path

PAGE = 2**21


def photo(width: int, height: int, seed: int) -> np.ndarray:
    """Draw smooth colors with texture that JPEG keeps, as in a photograph; uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = []
    for _ in range(3):
        fx, fy, phase = random.uniform([0.01, 0.01, 0], [0.12, 0.12, 6])
        channels.append(
            128
            + 90 * np.sin(fx * x + fy * y + phase)
            + 25 * np.sin(0.5 * fx * x * y / (height + 1))
        )
    return np.clip(
        np.stack(channels, axis=2) + random.normal(0, 4, (height, width, 3)), 0, 255
    ).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 92, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def write_beton(
    path: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    *,
    raw: Sequence[bool],
    blobs: Sequence[bytes] | None = None,
    classes: Sequence[str] | None = None,
    page: int = PAGE,
) -> Path:
    """Write FFCV's format, version 2, and a manifest.

    The format has a 24-byte header, 1041-byte fields, 24-byte rows, blobs, and a table of the blobs.
    Before the table are the first 16 bytes of each image's sha256 and the samples' ids, 1000 +
    number. The table is in reverse order, which a writer with many workers may produce.

    Args:
        path: path of the file.
        images: uint8 [H, W, 3] each.
        labels: label of each image.
        raw: whether each image is stored as pixels instead of as JPEG.
        blobs: stored bytes of each image. None encodes `images`.
        classes: names of the classes. None means class0, class1, ...
        page: page size in bytes.

    Returns:
        `path`.
    """
    blobs = blobs or [
        image.tobytes() if is_raw else jpeg(image)
        for image, is_raw in zip(images, raw, strict=True)
    ]
    rows, table, body = [], [], bytearray()
    for number, (image, label, is_raw, blob) in enumerate(
        zip(images, labels, raw, blobs, strict=True)
    ):
        offset = page + len(body)
        rows.append(struct.pack("<BHHQ3xq", is_raw, image.shape[1], image.shape[0], offset, label))
        table.append(struct.pack("<QQQ", number, offset, len(blob)))
        body += blob
    fields = b"".join(
        struct.pack("<B16s1024x", kind, name) for kind, name in ((2, b"image"), (1, b"label"))
    )
    ids = b"".join(struct.pack("<Q", 1000 + number) for number in range(len(images)))
    digests = b"".join(hashlib.sha256(blob).digest()[:16] for blob in blobs)
    header = struct.pack(
        "<HHIQQ", 2, 2, page, len(images), page + len(body) + len(digests) + len(ids)
    )
    start = header + fields + b"".join(rows)
    assert len(start) <= page
    path.write_bytes(start.ljust(page, b"\0") + body + digests + ids + b"".join(reversed(table)))
    classes = classes or [f"class{label}" for label in range(max(labels) + 1)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tables = start + digests + ids + b"".join(reversed(table))
    manifest = Manifest.sealed(
        name="tiny",
        dataset="tiny",
        split="train",
        num_samples=len(images),
        classes=list(classes),
        class_counts=[list(labels).count(label) for label in range(len(classes))],
        encoding=Encoding(),
        source="tests",
        subset={},
        seed=0,
        num_jpeg=len(images) - sum(raw),
        num_raw=sum(raw),
        max_width=max(image.shape[1] for image in images),
        max_height=max(image.shape[0] for image in images),
        skipped=[],
        page_size=page,
        bytes=path.stat().st_size,
        sha256=digest,
        tables_sha256=hashlib.sha256(tables).hexdigest(),
        created_by="tests",
    )
    manifest_path(path).write_text(manifest.model_dump_json())
    return path
