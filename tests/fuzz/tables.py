"""Mutated tables and manifests of `.beton` files: readers raise only UserError and stay in the file."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np

from loaders.plan import LoaderPlan
from loaders.reader import Samples, open_samples
from tests.fuzz.cases import dct_blobs, draws_of, flip_some, indexed_jpegs, plain_jpegs
from tests.fuzz.checks import R, decode, difference, kernels
from tests.helpers.reseal import reseal
from tests.helpers.tiny_betons import photo, write_beton
from writers.beton.encoding import DCT
from writers.beton.layout import BLOB, FIRST_ROW, HEADER, SAMPLE, fields_of
from writers.beton.store import manifest_path, read_manifest
from writers.beton.verify import verify
from writers.errors import UserError

PAGE = 4096  # bytes; smaller than FFCV's pages, so that cases are small
EDGES = (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


@functools.cache
def original() -> tuple[bytes, str]:
    """A beton of JPEG, raw and dct images, and its manifest."""
    found = [plain_jpegs()[0], indexed_jpegs()[1], plain_jpegs()[4], dct_blobs()[0], dct_blobs()[9]]
    images = [photo(*size, seed=number) for number, (_, size) in enumerate(found)]
    raw = [number == 1 for number in range(len(found))]
    blobs = [
        image.tobytes() if is_raw else data
        for image, is_raw, (data, _) in zip(images, raw, found, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "original.beton"
        write_beton(path, images, [0, 1, 0, 1, 1], raw=raw, blobs=blobs, page=PAGE)
        data = bytearray(path.read_bytes())
        fields = fields_of(None, has_dct=True)
        data[HEADER.itemsize : FIRST_ROW] = fields.tobytes()
        np.frombuffer(data, SAMPLE, len(found), FIRST_ROW)["mode"][3:] = DCT
        path.write_bytes(data)
        reseal(path, num_jpeg=2, num_dct=2)
        assert verify(path) == []
        return path.read_bytes(), manifest_path(path).read_text()


def write_case(path: Path, seed: int, number: int) -> None:
    """Write a case's beton to the path, and its manifest."""
    draws = draws_of("beton", seed, number)
    beton, manifest = original()
    data, kind = bytearray(beton), draws.random()
    num_samples = json.loads(manifest)["num_samples"]
    table = len(beton) - num_samples * BLOB.itemsize
    if kind < 0.15:
        flip_some(data, 0, FIRST_ROW, draws)
    elif kind < 0.4:  # fields of rows
        for _ in range(int(draws.integers(1, 4))):
            rows = np.frombuffer(data, SAMPLE, num_samples, FIRST_ROW)
            _set_edge(
                rows, str(draws.choice(["mode", "width", "height", "offset", "label"])), draws
            )
    elif kind < 0.55:  # table of blobs
        for _ in range(int(draws.integers(1, 4))):
            _set_edge(
                np.frombuffer(data, BLOB, num_samples, table),
                str(draws.choice(["sample", "offset", "size"])),
                draws,
            )
    elif kind < 0.6:
        flip_some(data, FIRST_ROW, FIRST_ROW + num_samples * SAMPLE.itemsize, draws)
    elif kind < 0.95:
        _move(
            np.frombuffer(data, SAMPLE, num_samples, FIRST_ROW),
            np.frombuffer(data, BLOB, num_samples, table),
            draws,
        )
    else:
        flip_some(data, table - 60, len(data), draws)
    path.write_bytes(data)
    text = bytearray(manifest.encode())
    if draws.random() < 0.15:
        flip_some(text, 0, len(text), draws)
    manifest_path(path).write_bytes(text)
    if draws.random() < 0.75:
        _seal(path, draws)


def _move(rows: np.ndarray, blobs: np.ndarray, draws: np.random.Generator) -> None:
    """Move or resize images in rows and in the table of blobs, but do not move their bytes."""
    for _ in range(int(draws.integers(1, 3))):
        row = int(draws.integers(len(rows)))
        blob = int(np.flatnonzero(blobs["sample"] == row)[0])
        offset, size = int(blobs["offset"][blob]), int(blobs["size"][blob])
        kind = draws.random()
        if kind < 0.4:
            offset = int(draws.integers(offset + size))
        elif kind < 0.6:
            size = int(
                draws.choice([0, 1, 7, 20, 27, 28, 29, 155, 156, 157, max(0, size - 1), size + 1])
            )
        elif kind < 0.8:
            rows["mode"][row] = int(draws.integers(3))
            rows["width"][row] = int(draws.integers(1, 40))
            rows["height"][row] = max(1, size // (3 * int(rows["width"][row])))
            size = 3 * int(rows["width"][row]) * int(rows["height"][row])
        else:
            other = int(draws.integers(len(rows)))
            for name in ("width", "height"):
                rows[name][row] = rows[name][other]
        rows["offset"][row] = blobs["offset"][blob] = offset
        blobs["size"][blob] = size


def _set_edge(table: np.ndarray, name: str, draws: np.random.Generator) -> None:
    column = table[name]
    row, most = int(draws.integers(len(column))), 8 * column.dtype.itemsize
    value = int(draws.choice(np.array(EDGES, np.uint64))) if draws.random() < 0.5 else None
    if value is None:
        value = int(column[row]) + int(draws.integers(-40, 41))
    column.view(f"u{column.dtype.itemsize}")[row] = value % 2**most if most < 64 else value % 2**64


def _seal(path: Path, draws: np.random.Generator) -> None:
    """Update the digests, as a faulty writer would, and change the manifest of some cases."""
    changes: dict[str, object] = {}
    if draws.random() < 0.2:
        name = str(
            draws.choice(["classes", "class_counts", "multi_label", "page_size", "max_width"])
        )
        changes[name] = {
            "classes": [["a"], [], ["a"] * 3][int(draws.integers(3))],
            "class_counts": [[4, 0], [], [0, 0]][int(draws.integers(3))],
            "multi_label": True,
            "page_size": int(draws.choice([0, 1, 2**31])),
            "max_width": int(draws.choice([0, 1, 2**31])),
        }[name]
    try:
        reseal(path, **changes)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return  # the manifest is too damaged to update its digests


def check_beton_case(path: Path, seed: int, number: int) -> str:
    """Write the case to the path; return what is wrong with it, or ''.

    `read_manifest` and `open_samples` may raise UserError. Any other exception is a finding.
    """
    write_case(path, seed, number)
    problems = verify(path, num_threads=1)
    try:
        read_manifest(path)
        samples = open_samples(LoaderPlan(path, batch_size=2, resolution=R))
    except UserError:
        return "" if problems else "the beton passes verify, but cannot be opened"
    names = [name for name in kernels() if name != "numba" or not (samples.modes == DCT).any()]
    results = {
        name: _decoded(name, path, samples) for name in (names[number % len(names)], names[-1])
    }
    if not problems and any(result is None for result in results.values()):
        return "the beton passes verify, but an image cannot be decoded"
    return difference(results)


def _decoded(name: str, path: Path, samples: Samples) -> np.ndarray | None:
    zeros = np.zeros(len(samples), np.int64)
    output, has_error = decode(
        name,
        np.fromfile(path, np.uint8),
        samples.offsets,
        samples.sizes,
        samples.modes,
        samples.widths,
        samples.heights,
        np.stack([zeros, zeros, samples.widths, samples.heights], axis=1),
    )
    return None if has_error.any() else output
