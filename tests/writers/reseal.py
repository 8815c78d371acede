"""A manifest made to fit a file that a test has changed: as a bad writer might have left it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from writers.encode import Encoding
from writers.follow import digest_of_groups
from writers.store import Manifest, manifest_path, tables_digest


def reseal(path: Path, **changes: Any) -> Manifest:
    """Write the manifest anew, with these fields and the file's own digests."""
    fields = json.loads(manifest_path(path).read_text()) | changes
    fields["encoding"] = Encoding.model_validate(fields["encoding"])
    blobs_per_sample = 2 if fields["multi_label"] else 1
    data = path.read_bytes()
    with path.open("rb") as file:
        ids_offset = len(data) - fields["num_samples"] * (8 + 24 * blobs_per_sample)
        fields["tables_sha256"] = tables_digest(file, fields["num_samples"], ids_offset)
    size = fields["group_bytes"]
    groups = [hashlib.sha256(data[start:start + size]).hexdigest() for start in range(0, len(data), size)]
    fields |= {"bytes": len(data), "group_sha256": groups, "sha256": digest_of_groups(groups)}
    manifest = Manifest.sealed(**{name: value for name, value in fields.items() if name != "digest"})
    manifest_path(path).write_text(manifest.model_dump_json())
    return manifest
