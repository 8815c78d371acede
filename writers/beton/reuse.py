"""Takes a split's samples from a beton that lies ready, where that gives the very file that writing from the images would give.

Trusted is only a beton that proves itself. Its record says that it comes from the same raw files, split the same way
(`writers/beton/provenance.py`); its manifest, that it was encoded by the same settings and code; its ids, that it has every image that is
wanted, in the same order; a few images, encoded anew, that today's libraries give the same bytes; and the digest of each sample
that is taken, that it is not damaged. Labels come from the source, so that the classes of that beton do not matter. Nothing but
those few images is decoded.

Where the whole file is wanted it gets a second name on the disk, a hard link; otherwise the samples are copied. A link is as
safe as a copy: no beton is changed in place, and one that is deleted or written anew leaves the file to its other name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from writers.beton.copy import BetonChanged, check_samples, copy_samples, lay_out, open_samples
from writers.beton.encode import Unreadable, encode
from writers.beton.encoding import Encoding
from writers.beton.layout import Layout, digest_of
from writers.beton.provenance import Origin, recorded
from writers.beton.publish import new_beton
from writers.beton.store import Beton, Manifest, Progress, has_fields_of, open_beton, read_manifest
from writers.beton.write import CREATED_BY, FILE_FIELDS, chosen, file_fields, manifest_of
from writers.errors import UserError
from writers.random_streams import draw, uniform
from writers.source import Example, Source, ids_of
from writers.subset.spec import Subset

NUM_ENCODED_ANEW = 16
SEED = 0  # of the order in the file and of the draws of a mixed encoding, as `write_split` has it by default


@dataclass(frozen=True)
class Taken:
    manifest: Manifest
    beton: Path  # that the samples were taken from


def take(
    source: Source,
    split: str,
    subset: Subset,
    encoding: Encoding,
    out_file: Path,
    *,
    origin: Origin | None,
    folder: Path,
    progress: Progress | None = None,
    tell: Callable[[str], None] = print,
) -> Taken | None:
    """Write `out_file` as `write_split` does, from a beton in a folder of `folder`; None: there is none that will do.

    The manifest is that of `write_split`, too, and does not depend on what lay there. `tell` is told of a beton that is damaged
    or goes away meanwhile; then the next one is tried. None, too, for images with many labels. Raises UserError as
    `write_split` does for classes without images and for the disk.
    """
    if source.multi_label or origin is None:
        return None
    examples: list[Example] = []
    for path, manifest in _promising(folder, source, split, encoding, origin):
        examples = examples or chosen(source, split, subset, SEED)
        try:
            if taken := _take(path, manifest, source, split, subset, examples, out_file, progress):
                return Taken(taken, path)
        except BetonChanged as error:
            tell(f"Not copied from {path}: {error}")
    return None


def _promising(
    folder: Path, source: Source, split: str, encoding: Encoding, origin: Origin
) -> list[tuple[Path, Manifest]]:
    """Betons of the same images, encoded in the same way, by what is written of them; the smallest first."""
    found = []
    for path in sorted(folder.glob(f"*/{split}.beton")):
        try:
            manifest = read_manifest(path)
        except UserError:
            continue
        said = (
            manifest.dataset,
            manifest.split,
            manifest.encoding,
            manifest.seed,
            manifest.created_by,
        )
        if (
            said == (source.name, split, encoding, SEED, CREATED_BY)
            and recorded(path, manifest) == origin
        ):
            found.append((path, manifest))
    return sorted(found, key=lambda one: one[1].num_samples)


def _take(
    path: Path,
    manifest: Manifest,
    source: Source,
    split: str,
    subset: Subset,
    examples: Sequence[Example],
    out_file: Path,
    progress: Progress | None,
) -> Manifest | None:
    """None: the beton lacks images, or has others. Raises BetonChanged."""
    readable = [example for example in examples if example.key not in source.damaged]
    if manifest.num_samples < len(readable):
        return None
    try:
        beton = open_beton(path)
        if beton.manifest != manifest or not has_fields_of(beton):
            raise BetonChanged("It is another file by now.")
        assert len(beton.sizes) == len(beton.ids)  # raises for tables that do not fit each other
    except (UserError, OSError) as error:
        raise BetonChanged(str(error)) from error
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
    """Where samples of these ids (uint64 [M]) stand: int64 [M], rising; None: some are missing, or in another order."""
    order = np.argsort(beton.ids, kind="stable")
    place = np.minimum(np.searchsorted(beton.ids, ids, sorter=order), len(order) - 1)
    positions = order[place]
    there = bool((beton.ids[positions] == ids).all()) and len(ids) > 0
    return positions if there and bool((np.diff(positions) > 0).all()) else None


def _encodes_to(
    beton: Beton, positions: np.ndarray, examples: Sequence[Example], source: Source
) -> bool:
    """Whether a few images, from all over the file, still become what is in it."""
    few = np.unique(np.linspace(0, len(positions) - 1, NUM_ENCODED_ANEW, dtype=np.int64))
    manifest = beton.manifest
    chances = uniform(draw(manifest.seed, "encode", beton.ids[positions[few]]))
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
    except (Unreadable, OSError):  # whoever writes from the images says which, and why
        return False


def _is_whole(beton: Beton, layout: Layout) -> bool:
    """Whether a file of this layout is, byte for byte, the beton itself."""
    return (
        layout.page_size == beton.manifest.page_size
        and layout.pages_end == beton.manifest.pages_end
        and layout.rows.tobytes() == beton.rows.tobytes()
    )
