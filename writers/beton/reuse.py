"""Reuse samples of an existing `.beton` file if the result equals the file written from the images.

A beton is reused only if all of these conditions hold:

- it was written from the same raw files and splits (`writers/beton/provenance.py` records them),
- its manifest has the same encoding and code version,
- it contains all needed images by id, in the same order,
- NUM_REENCODED images that are encoded again with the installed libraries give the same bytes,
- the bytes of each used sample match its digest.

Labels come from the source, so the classes of the reused beton do not matter. No other images are
decoded.

If the whole file is needed, it is hard-linked if possible; otherwise samples are copied. A link is
as safe as a copy, because no beton is changed in place: if one name is removed or replaced, the
other remains.
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
from writers.beton.selection import SplitSelection, select_images
from writers.beton.store import Beton, Manifest, Progress, has_fields_of, open_beton, read_manifest
from writers.errors import UserError
from writers.random_streams import random_bits, uniform
from writers.source import Example, Source
from writers.subset.spec import Subset

NUM_REENCODED = 16
SEED = 0  # seed of the order and of mixed encodings; equal to the default of `write_split`


@dataclass(frozen=True)
class Reused:
    """Result of a reuse: the manifest of the new beton, and the path of the reused beton."""

    manifest: Manifest
    beton: Path


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
    """Write `out_file` as `write_split` would, from a beton in a subfolder of `folder`.

    The manifest equals the one that `write_split` makes. If a beton is damaged or disappears, `log`
    receives a message, and the next beton is tried.

    Returns:
        None if no beton can be used, images have several labels, or `origin` is None (unknown).

    Raises:
        UserError: a class has no images, or there is a disk error, as in `write_split`.
    """
    if source.multi_label or origin is None:
        return None
    selection: SplitSelection | None = None
    for path, manifest in _candidates(folder, source, split, encoding, origin):
        selection = selection or select_images(source, split, subset, SEED)
        try:
            if taken := _reuse(path, manifest, selection, out_file, progress):
                return Reused(taken, path)
        except BetonChangedError as error:
            log(f"Not copied from {path}: {error}")
    return None


def _candidates(
    folder: Path, source: Source, split: str, encoding: Encoding, origin: Origin
) -> list[tuple[Path, Manifest]]:
    """List betons of the same images and encoding according to their records, smallest first."""
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
    selection: SplitSelection,
    out_file: Path,
    progress: Progress | None,
) -> Manifest | None:
    """Reuse a beton, or return None if its images differ. Raises BetonChangedError."""
    source, examples = selection.source, selection.examples
    is_readable = np.array([example.key not in source.damaged for example in examples], bool)
    readable = [examples[number] for number in np.flatnonzero(is_readable).tolist()]
    if manifest.num_samples < len(readable):
        return None
    try:
        beton = open_beton(path)
        if beton.manifest != manifest or not has_fields_of(beton):
            raise BetonChangedError("It is a different file now.")
        assert len(beton.sizes) == len(beton.ids)  # `sizes` raises if tables do not match
    except (UserError, OSError) as error:
        raise BetonChangedError(str(error)) from error
    positions = _positions(beton, selection.ids[is_readable])
    if positions is None or not _encodes_to(beton, positions, readable, source):
        return None
    skipped = [
        selection.skipped(example, source.damaged[example.key])
        for example in examples
        if example.key in source.damaged
    ]
    labels = np.array([example.label for example in readable], np.int64)
    layout = lay_out(beton, positions, labels, capacity=len(examples))

    def sealed(file: dict[str, object]) -> Manifest:
        return manifest_of(selection, manifest.encoding, skipped, file)

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
    """Return the positions (int64 [M], ascending) of the samples with these ids (uint64 [M]).

    None if a sample is missing, or if the samples are in another order.
    """
    order = np.argsort(beton.ids, kind="stable")
    place = np.minimum(np.searchsorted(beton.ids, ids, sorter=order), len(order) - 1)
    positions = order[place]
    there = bool((beton.ids[positions] == ids).all()) and len(ids) > 0
    return positions if there and bool((np.diff(positions) > 0).all()) else None


def _encodes_to(
    beton: Beton, positions: np.ndarray, examples: Sequence[Example], source: Source
) -> bool:
    """Return True if a few images across the file still encode to the stored bytes.

    `positions`, int64 [N], are the positions of `examples` in the file.
    """
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
    except (UnreadableError, OSError):  # writing from the images then reports image and reason
        return False


def _is_whole(beton: Beton, layout: Layout) -> bool:
    """Return True if a file of this layout equals the beton byte for byte."""
    return (
        layout.page_size == beton.manifest.page_size
        and layout.pages_end == beton.manifest.pages_end
        and layout.rows.tobytes() == beton.rows.tobytes()
    )
