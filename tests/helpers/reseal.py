"""Recompute the digests of a changed `.beton` file, to imitate a faulty writer."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from writers.beton.encoding import Encoding
from writers.beton.layout import BLOB, DIGEST_BYTES, ID, digest_of
from writers.beton.store import Manifest, file_digests, manifest_path


def reseal(path: Path, **changes: Any) -> Manifest:
    """Write sample digests and manifest again; `changes` replace fields of the manifest."""
    fields = json.loads(manifest_path(path).read_text()) | changes
    fields["encoding"] = Encoding.model_validate(fields["encoding"])
    number, data = fields["num_samples"], bytearray(path.read_bytes())
    has_boxes = fields["has_boxes"]
    table = len(data) - number * (1 + fields["multi_label"] + has_boxes) * BLOB.itemsize
    pages_end = table - number * (ID.itemsize + DIGEST_BYTES)
    stored: list[list[bytes]] = [[] for _ in range(number)]
    for sample, offset, size in np.frombuffer(bytes(data[table:]), BLOB).tolist():
        if sample < number:
            stored[sample].append(bytes(data[offset : offset + size]))
    data[pages_end : pages_end + number * DIGEST_BYTES] = b"".join(
        digest_of(*blobs) for blobs in stored
    )
    path.write_bytes(data)
    fields |= file_digests(path, number, pages_end, has_boxes=has_boxes)
    manifest = Manifest.sealed(
        **{name: value for name, value in fields.items() if name != "digest"}
    )
    manifest_path(path).write_text(manifest.model_dump_json())
    return manifest
