"""Reuse samples of an existing beton if the result equals the file written from the images.

A beton is only used if all of this holds: its record has the same raw files and splits
(`writers/beton/provenance.py`); its manifest has the same encoding and code version; it has the ids
of all needed images, in the same order; a few images encoded again give the same bytes with today's
libraries; and the digest of each used sample is right. Labels come from the source, so the beton's
classes do not matter. Only those few images are decoded.

If the whole file is needed, it is hard-linked; otherwise samples are copied. A link is as safe as a
copy: no beton is changed in place, and deleting or rewriting one name keeps the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from writers.beton.atomic_file import new_beton
from writers.beton.copy import BetonChangedError, check_samples, copy_samples, lay_out, open_samples
from writers.beton.encode import UnreadableError, encode
from writers.beton.encoding import Encoding
from writers.beton.layout import Layout, digest_of
from writers.beton.manifest_fields import CREATED_BY, FILE_FIELDS, file_fields, manifest_of
from writers.beton.provenance import Origin, recorded
from writers.beton.selection import chosen
from writers.beton.store import Beton, Manifest, Progress, has_fields_of, open_beton, read_manifest
from writers.errors import UserError
from writers.random_streams import random_bits, uniform
from writers.source import Example, Source, ids_of
from writers.subset.spec import Subset

NUM_REENCODED = 16
SEED = 0  # seed of the order and of mixed encodings, `write_split`'s default


@dataclass(frozen=True)
class Reused:
    """A written beton and the one that its samples come from."""

    manifest: Manifest
    beton: Path  # source of the samples


def reuse_samples(
    source: Source,
    split: str,
    subset: Subset,
    encoding: Encoding,
    out_file: Path,
    *,
    origin: Origin | None,
    folder: Path,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> Reused | None:
    """Write `out_file` like `write_split`, from a beton in a subfolder of `folder`.

    The manifest equals that of `write_split`. `log` receives a message if a beton is damaged or
    disappears; the next one is then tried.

    Returns:
        None if no beton can be used, and for images with several labels.

    Raises:
        UserError: as `write_split`, for classes without images and for the disk.
    """
    if source.multi_label or origin is None:
        return None
    examples: list[Example] = []
    for path, manifest in _candidates(folder, source, split, encoding, origin):
        examples = examples or chosen(source, split, subset, SEED)
        try:
            if taken := _reuse(path, manifest, source, split, subset, examples, out_file, progress):
                return Reused(taken, path)
        except BetonChangedError as error:
            log(f"Not copied from {path}: {error}")
    return None


def _candidates(
    folder: Path, source: Source, split: str, encoding: Encoding, origin: Origin
) -> list[tuple[Path, Manifest]]:
    """Betons with the same images and encoding according to their records, smallest first."""
    candidates = []
    for path in sorted(folder.glob(f"*/{split}.beton")):
        try:
            manifest = read_manifest(path)
        except UserError:
            continue
        recorded_as = (
            manifest.dataset,
            manifest.split,
            manifest.encoding,
            manifest.seed,
            manifest.created_by,
        )
        if (
            recorded_as == (source.name, split, encoding, SEED, CREATED_BY)
            and recorded(path, manifest) == origin
        ):
            candidates.append((path, manifest))
    return sorted(candidates, key=lambda candidate: candidate[1].num_samples)


def _reuse(
    path: Path,
    manifest: Manifest,
    source: Source,
    split: str,
    subset: Subset,
    examples: Sequence[Example],
    out_file: Path,
    progress: Progress | None,
) -> Manifest | None:
    """Reuse a beton, or return None if its images differ. Raises BetonChangedError."""
    readable = [example for example in examples if example.key not in source.damaged]
    if manifest.num_samples < len(readable):
        return None
    try:
        beton = open_beton(path)
        if beton.manifest != manifest or not has_fields_of(beton):
            raise BetonChangedError("It is a different file now.")
        assert len(beton.sizes) == len(beton.ids)  # raises if tables do not match
    except (UserError, OSError) as error:
        raise BetonChangedError(str(error)) from error
    positions = _positions(beton, ids_of(readable))
    if positions is None or not _encodes_to(beton, positions, readable, source):
        return None
    skipped = [
        {
            "name": example.name,
            "class": subset.classes[example.label],
            "reason": source.damaged[example.key],
        }
        for example in examples
        if example.key in source.damaged
    ]
    labels = np.array([example.label for example in readable], np.int64)
    layout = lay_out(beton, positions, labels, capacity=len(examples))

    def sealed(file: dict[str, object]) -> Manifest:
        return manifest_of(source, split, subset, manifest.encoding, SEED, examples, skipped, file)

    with new_beton(out_file) as new:
        if _is_whole(beton, layout):
            taken = sealed({name: getattr(manifest, name) for name in FILE_FIELDS})
            with open_samples(beton) as file:
                check_samples(beton, positions, file.fileno(), progress)
                if new.publish_link(taken, beton.path, file.fileno()):
                    return taken
        copy_samples(beton, positions, layout, new, check=True, progress=progress)
        taken = sealed(file_fields(layout, new))
        new.publish(taken)
    return taken


def _positions(beton: Beton, ids: np.ndarray) -> np.ndarray | None:
    """Positions of samples by id (uint64 [M]): int64 [M], ascending.

    None if some are missing or in another order.
    """
    order = np.argsort(beton.ids, kind="stable")
    place = np.minimum(np.searchsorted(beton.ids, ids, sorter=order), len(order) - 1)
    positions = order[place]
    there = bool((beton.ids[positions] == ids).all()) and len(ids) > 0
    return positions if there and bool((np.diff(positions) > 0).all()) else None


def _encodes_to(
    beton: Beton, positions: np.ndarray, examples: Sequence[Example], source: Source
) -> bool:
    """Return True if a few images across the file still encode to the stored bytes."""
    few = np.unique(np.linspace(0, len(positions) - 1, NUM_REENCODED, dtype=np.int64))
    manifest = beton.manifest
    chances = uniform(random_bits(manifest.seed, "encode", beton.ids[positions[few]]))
    try:
        return all(
            digest_of(
                encode(
                    source.read(example),
                    manifest.encoding,
                    chance,
                    lenient=example.key in source.lenient,
                ).data
            )
            == digest.tobytes()
            for example, chance, digest in zip(
                (examples[index] for index in few.tolist()),
                chances.tolist(),
                beton.digests[positions[few]],
                strict=True,
            )
        )
    except (UnreadableError, OSError):  # writing from the images reports which, and why
        return False


def _is_whole(beton: Beton, layout: Layout) -> bool:
    """Return True if a file of this layout equals the beton byte for byte."""
    return (
        layout.page_size == beton.manifest.page_size
        and layout.pages_end == beton.manifest.pages_end
        and layout.rows.tobytes() == beton.rows.tobytes()
    )
